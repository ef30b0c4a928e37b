"""deploy/topology.toml as values: which services exist, their ports, schemas, needs and transit keys."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.stack.faults import StackFault

MIGRATOR = "triptych_migrator"


@dataclass(frozen=True, slots=True)
class TransitKey:
    """One key of the OpenBao transit engine."""

    name: str
    type: str
    derived: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """One process of Triptych, and the one schema that it owns."""

    name: str
    context: str
    schema: str
    module: str
    port: int
    plaintext: int
    metrics: int
    needs: tuple[str, ...]
    transit: tuple[TransitKey, ...]

    @property
    def owner(self) -> str:
        """Role that owns the schema; nobody can log in with it."""
        return f"triptych_{self.schema}_owner"

    @property
    def app(self) -> str:
        """Role of the service itself."""
        return f"triptych_{self.schema}_app"

    @property
    def relay(self) -> str:
        """Role that reads the outbox and nothing else."""
        return f"triptych_{self.schema}_relay"


@dataclass(frozen=True, slots=True)
class Topology:
    """All services, in the order of the file."""

    database: str
    services: tuple[Service, ...]

    def service(self, name: str) -> Service:
        """Find one by name."""
        for service in self.services:
            if service.name == name:
                return service
        raise StackFault(f"no service is called {name!r}; there are {', '.join(s.name for s in self.services)}")

    def logins(self) -> tuple[str, ...]:
        """Every PostgreSQL role that has a password."""
        return (MIGRATOR, *(role for service in self.services for role in (service.app, service.relay)))


def deploy() -> Path:
    """Find the deploy folder: inside the package when installed from a wheel, beside it in a checkout."""
    services = Path(__file__).resolve().parents[2]
    for folder in (services / "deploy", services.parent / "deploy"):
        if (folder / "topology.toml").is_file():
            return folder
    raise StackFault(f"deploy/topology.toml is neither in {services} nor beside it; install triptych again")


def read(path: Path | None = None) -> Topology:
    """Read the topology."""
    with (path or deploy() / "topology.toml").open("rb") as file:
        document = tomllib.load(file)
    services = tuple(_service(table) for table in document["service"])
    return Topology(database=document["database"]["name"], services=services)


def _service(table: Mapping[str, Any]) -> Service:
    keys = tuple(TransitKey(**key) for key in table["transit"])
    return Service(**{**table, "needs": tuple(table["needs"]), "transit": keys})
