"""Wiring of the providers service."""

from typing import cast

from services.kit import valkey
from services.kit.server import Runtime, serve
from services.providers import keys, providers
from services.providers.admissions import Admissions
from services.providers.api.keys import Keys
from services.providers.api.providers import Providers
from services.providers.api.quotas import Quotas
from services.providers.api.usage import Usage
from services.providers.attempts import Attempts
from services.providers.connections import Connections
from services.providers.counters import Counters
from services.providers.deks import Deks
from services.providers.keyrings import Keyring
from services.providers.settings import ProvidersSettings
from triptych.providers.v1 import (
    key_service_pb2_grpc as key_grpc,
    provider_service_pb2_grpc as provider_grpc,
    quota_service_pb2_grpc as quota_grpc,
    usage_service_pb2_grpc as usage_grpc,
)

SETTINGS = ProvidersSettings
PACKAGE = "triptych.providers.v1"


async def wire(runtime: Runtime) -> None:
    """Open what the service needs and add its servicers."""
    settings = cast("ProvidersSettings", runtime.settings)
    await runtime.open(constraints={**providers.CONSTRAINTS, **keys.CONSTRAINTS})
    db, pages, store = runtime.db, runtime.pages, valkey.connect(settings)
    deks, connections = Deks(runtime.vault), Connections(allow_loopback=settings.allow_loopback_endpoints)
    attempts, admissions = Attempts(valkey=store, db=db), Admissions(db=db, counters=Counters(store))
    keyring = Keyring(db=db, vault=runtime.vault, deks=deks, attempts=attempts, connections=connections)
    catalogue = Providers(db=db, pages=pages, allow_loopback=settings.allow_loopback_endpoints)
    runtime.add(f"{PACKAGE}.ProviderService", provider_grpc.add_ProviderServiceServicer_to_server, catalogue)
    runtime.add(
        f"{PACKAGE}.KeyService",
        key_grpc.add_KeyServiceServicer_to_server,
        Keys(db=db, pages=pages, keyring=keyring),
    )
    runtime.add(
        f"{PACKAGE}.QuotaService",
        quota_grpc.add_QuotaServiceServicer_to_server,
        Quotas(db=db, admissions=admissions),
    )
    runtime.add(f"{PACKAGE}.UsageService", usage_grpc.add_UsageServiceServicer_to_server, Usage(db=db, pages=pages))
    runtime.background(admissions.run())
    runtime.on_close(store.aclose)
    runtime.on_close(connections.close)
    runtime.on_close(admissions.close)


if __name__ == "__main__":
    serve(SETTINGS, wire)
