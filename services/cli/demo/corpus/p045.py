"""Open the line to the bank's gateway."""
import socket
import ssl

CERTIFICATES = "/etc/bank/ca.pem"


def open_line(host: str, port: int = 8443) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLSv1)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(CERTIFICATES)
    context.check_hostname = True
    plain = socket.create_connection((host, port), timeout=10)
    return context.wrap_socket(plain, server_hostname=host)
