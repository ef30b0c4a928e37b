"""Collect counters that programs on this host send."""
import collections
import socket

counters: collections.Counter[str] = collections.Counter()


def listen(port: int = 8_125) -> None:
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.bind(("127.0.0.1", port))
    while True:
        body, _ = line.recvfrom(512)
        name, _, count = body.decode().partition(":")
        counters[name] += int(count)


if __name__ == "__main__":
    listen()
