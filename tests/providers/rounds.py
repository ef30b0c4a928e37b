"""Rounds of keys that a test goes by itself, with the parts of a running service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from prometheus_client import CollectorRegistry

from services.kit import valkey
from services.kit.server import Runtime
from services.providers.attempts import Attempts
from services.providers.connections import Connections
from services.providers.deks import Deks
from services.providers.guards import Guard
from services.providers.rounds import Rounds
from services.providers.settings import ProvidersSettings
from services.providers.uses import Uses
from services.providers.validations import Validations


@asynccontextmanager
async def make_rounds(runtime: Runtime, registry: CollectorRegistry | None = None) -> AsyncIterator[Rounds]:
    """Give rounds on a service's database, OpenBao and providers."""
    settings = cast("ProvidersSettings", runtime.settings)
    vault = Guard(runtime.vault, url=settings.vault_url)
    store = valkey.connect(settings)
    connections = Connections(allow_loopback=settings.allow_loopback_endpoints)
    validations = Validations(
        db=runtime.db,
        vault=vault,
        connections=connections,
        attempts=Attempts(valkey=store, db=runtime.db),
        registry=registry or CollectorRegistry(),
    )
    yield Rounds(db=runtime.db, deks=Deks(vault), uses=Uses(), validations=validations)
    await connections.close()
    await vault.close()
    await store.aclose()
