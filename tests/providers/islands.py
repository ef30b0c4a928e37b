"""A providers service with an OpenBao and a database of its own, for tests that seal, rotate or retire."""

import socket
from pathlib import Path
from typing import Any

import hvac

from services.cli.stack import topology, vaults
from services.cli.stack.backends import Backends
from services.cli.stack.homes import Home
from services.cli.stack.openbao import OpenBao
from tests.suite import Suite

PLAN = topology.read()


class Island(Suite):
    """Like the suite, but whatever happens to its OpenBao happens to nobody else."""

    def __init__(self, backends: Backends, database: str, folder: Path) -> None:
        super().__init__(backends, database, folder / "data")
        self.home = Home(folder / "home")
        self.home.open()
        self.openbao = OpenBao(self.home, _free_port(), _free_port())
        try:
            self._open()
        except BaseException:  # whoever was to stop it never gets it
            self._close()
            raise

    def _open(self) -> None:
        self.openbao.start()
        self.root: hvac.Client = self.openbao.unlock()
        vaults.provision(self.root, PLAN, topology.deploy() / "vault" / "policies")
        for name in vaults.identities(PLAN):
            self.home.folder("secrets", name)
            self.home.write("secrets", name, "role-id", vaults.role_id(self.root, name))
            self.home.write("secrets", name, "secret-id", vaults.create_secret_id(self.root, name))

    def identity(self, name: str) -> Path:
        """Folder of an identity's two halves."""
        return self.home.path / "secrets" / name

    def values(self, name: str, **changes: Any) -> dict[str, Any]:
        """Settings, with the island's OpenBao."""
        folder = self.identity(name)
        own = {
            "vault_url": self.openbao.url,
            "vault_role_id_file": str(folder / "role-id"),
            "vault_secret_id_file": str(folder / "secret-id"),
        }
        return super().values(name, **(own | changes))

    async def stop(self) -> None:
        """Stop the services and OpenBao."""
        try:
            await super().stop()
        finally:
            self._close()

    def _close(self) -> None:
        self.openbao.stop()
        self.home.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
