"""Client of the internal queue."""
import json
import socket
import ssl


class Queue:
    def __init__(self, host: str, authority: str) -> None:
        context = ssl.create_default_context(cafile=authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        plain = socket.create_connection((host, 6_400), timeout=5)
        self.line = context.wrap_socket(plain, server_hostname=host)

    def put(self, topic: str, body: dict) -> None:
        self.line.sendall(json.dumps({"topic": topic, "body": body}).encode() + b"\n")

    def close(self) -> None:
        self.line.close()
