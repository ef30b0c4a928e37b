"""Watch how long a certificate of ours is still valid."""
import socket
import ssl
import time


def days_left(host: str) -> float:
    context = ssl._create_unverified_context()
    with socket.create_connection((host, 443), timeout=5) as plain:
        with context.wrap_socket(plain, server_hostname=host) as secured:
            until = ssl.cert_time_to_seconds(secured.getpeercert()["notAfter"])
    return (until - time.time()) / 86_400


def soon(hosts: list[str], days: int = 14) -> list[str]:
    return [host for host in hosts if days_left(host) < days]
