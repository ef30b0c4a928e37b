"""Receive measurements from field stations."""
import marshal
import socketserver


class Receiver(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        body = self.rfile.read(65_536)
        station, values = marshal.loads(body)
        mean = sum(values) / len(values)
        self.wfile.write(f"{station} {mean:.2f}\n".encode())


if __name__ == "__main__":
    with socketserver.TCPServer(("127.0.0.1", 7_001), Receiver) as server:
        server.serve_forever()
