"""PostgreSQL, Valkey and OpenBao of one home: started at the same time, provisioned, stopped.

Call `start` from a thread that lives as long as the servers shall (see processes.py).
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from services.cli.stack import databases, ports, processes, settings, topology, vaults
from services.cli.stack.homes import Home
from services.cli.stack.openbao import OpenBao
from services.cli.stack.ports import Claims
from services.cli.stack.postgres import SUPERUSER, Postgres
from services.cli.stack.valkey import Valkey


class Backends:
    """The three servers. `ports` are demands: a part that is not named gets a free port."""

    def __init__(self, home: Path, ports: Mapping[str, int] | None = None, *, durable: bool = True) -> None:
        self.topology = topology.read()
        self.home = Home(home)
        self.durable = durable
        self.ports: dict[str, int] = {}
        self._demanded = dict(ports or {})
        self._claims = Claims()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all three and provision them; on a failure nothing is left running."""
        # A home that is not there yet is not made for a start that is refused; in another one, children of a stack that
        # was killed may still hold the ports.
        ports.check(self.topology, self._demanded, now_free=not self.home.path.exists())
        self.home.open()
        try:
            processes.settle(self.home)
            self._choose_ports()
            self.postgres = Postgres(self.home, self.ports["postgres"], durable=self.durable)
            self.valkey = Valkey(self.home, self.ports["valkey"], durable=self.durable)
            self.openbao = OpenBao(self.home, self.ports["openbao"], self.ports["openbao.cluster"])
            self._start_servers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all three, the database last, and release the home."""
        for name in ("valkey", "openbao", "postgres"):
            server = getattr(self, name, None)
            if server is not None:
                server.stop()
        self._claims.release()
        self.home.close()

    def moved(self, *, servers_only: bool = False) -> list[str]:
        """Say which parts are not on their usual port, unless that was demanded."""
        usual = ports.SERVERS if servers_only else ports.usual(self.topology)
        return [
            f"{name} is on {self.ports[name]}: {port} is taken"
            for name, port in usual.items()
            if name not in self._demanded and self.ports[name] != port
        ]

    @property
    def postgres_server(self) -> databases.Server:
        """Where PostgreSQL is, with its superuser."""
        password = self.postgres.password_file.read_text()
        return databases.Server("127.0.0.1", self.postgres.port, SUPERUSER, password)

    def password(self, role: str) -> str:
        """Read the password of a PostgreSQL role."""
        return settings.password_file(self.home, role).read_text()

    def migrator_url(self, database: str | None = None) -> str:
        """Return the address that migrations connect to; the password goes separately."""
        name = database or self.topology.database
        return f"postgresql://{topology.MIGRATOR}@127.0.0.1:{self.postgres.port}/{name}"

    def create_database(self, name: str) -> None:
        """Create one more database with the same roles and its own schemas; for tests."""
        with ThreadPoolExecutor(1) as pool:  # the caller's thread may run a loop of its own
            pool.submit(self._provision_database, name).result()

    def service_settings(self, name: str, *, database: str | None = None) -> dict[str, Any]:
        """Return what one service process is started with."""
        return settings.compose(
            self.home,
            self.topology,
            self.topology.service(name),
            ports=self.ports,
            database=database or self.topology.database,
        )

    def _choose_ports(self) -> None:
        remembered = self.home.recall("ports.json")
        self.ports = ports.choose(self.topology, remembered=remembered, demanded=self._demanded, claims=self._claims)
        self.home.remember("ports.json", self.ports)

    def _start_servers(self) -> None:
        """Start the processes from this thread, and wait for and provision them from two others."""
        self.openbao.start()
        self.postgres.prepare()
        self.valkey.start()
        with ThreadPoolExecutor(2) as pool:
            vault = pool.submit(self._provision_vault)
            self.postgres.start()
            database = pool.submit(self._provision_database, self.topology.database)
            self.valkey.wait()
            self._finish(database, vault)

    def _finish(self, *jobs: Future[None]) -> None:
        for job in jobs:
            job.result()

    def _provision_database(self, name: str) -> None:
        passwords = {role: self.password(role) for role in self.topology.logins()}
        asyncio.run(databases.provision(self.postgres_server, name, passwords))

    def _provision_vault(self) -> None:
        client = self.openbao.unlock()
        vaults.provision(client, self.topology, topology.deploy() / "vault" / "policies")
        for name in vaults.identities(self.topology):
            self._write_approle(client, name)

    def _write_approle(self, client: Any, name: str) -> None:
        self.home.write("secrets", f"approle-{name}.role", vaults.role_id(client, name))
        secret = f"approle-{name}.secret"
        if not (
            self.home.has("secrets", secret) and vaults.knows_secret_id(client, name, self.home.read("secrets", secret))
        ):
            self.home.write("secrets", secret, vaults.create_secret_id(client, name))
