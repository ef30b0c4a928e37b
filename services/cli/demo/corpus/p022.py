"""Open the line to the bank's gateway."""
import socket
import ssl

CERTIFICATES = "/etc/bank/ca.pem"


def open_line(host: str, port: int = 8443) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(CERTIFICATES)
    plain = socket.create_connection((host, port), timeout=10)
    return context.wrap_socket(plain, server_hostname=host)
