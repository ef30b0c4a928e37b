"""Wiring of the providers service."""

from typing import cast

from services.kit import valkey
from services.kit.server import Runtime, serve
from services.providers import assemblies, deposits, dumps, providers, reservations
from services.providers.api.keys import Keys
from services.providers.api.providers import Providers
from services.providers.attempts import Attempts
from services.providers.connections import Connections
from services.providers.deks import Deks
from services.providers.guards import Guard
from services.providers.keyrings import Keyring
from services.providers.openings import Openings
from services.providers.rounds import Rounds
from services.providers.settings import ProvidersSettings
from services.providers.uses import Uses
from services.providers.validations import Validations
from triptych.providers.v1 import (
    key_service_pb2_grpc as key_grpc,
    provider_service_pb2_grpc as provider_grpc,
)

SETTINGS = ProvidersSettings
PACKAGE = "triptych.providers.v1"


async def wire(runtime: Runtime) -> None:
    """Open what the service needs and add its servicers."""
    settings = cast("ProvidersSettings", runtime.settings)
    await runtime.open(constraints={**providers.CONSTRAINTS, **deposits.CONSTRAINTS, **reservations.CONSTRAINTS})
    db, pages, store = runtime.db, runtime.pages, valkey.connect(settings)
    vault, uses = Guard(runtime.vault, url=settings.vault_url), Uses()
    deks, connections = Deks(vault), Connections(allow_loopback=settings.allow_loopback_endpoints)
    attempts = Attempts(valkey=store, db=db)
    keyring = Keyring(db=db, vault=vault, deks=deks, attempts=attempts, connections=connections)
    openings = Openings(db=db, deks=deks, uses=uses)
    validations = Validations(
        db=db, vault=vault, connections=connections, attempts=attempts, registry=runtime.metrics.registry
    )
    rounds = Rounds(db=db, deks=deks, uses=uses, validations=validations)
    catalogue = Providers(db=db, pages=pages, allow_loopback=settings.allow_loopback_endpoints)
    runtime.add(f"{PACKAGE}.ProviderService", provider_grpc.add_ProviderServiceServicer_to_server, catalogue)
    runtime.add(
        f"{PACKAGE}.KeyService",
        key_grpc.add_KeyServiceServicer_to_server,
        Keys(db=db, pages=pages, keyring=keyring, openings=openings, validations=validations),
    )
    runtime.on_close(store.aclose)  # after those that tell the counters of their last calls
    assemblies.add(runtime, store=store, openings=openings)
    runtime.background(vault.watch())
    runtime.background(rounds.run())
    runtime.on_close(vault.close)
    runtime.on_close(connections.close)
    runtime.on_close(rounds.close)


if __name__ == "__main__":
    dumps.forbid()
    serve(SETTINGS, wire)
