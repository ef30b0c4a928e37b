"""Assembly of what charges and what calls: quotas, usage, budgets, models, health. `__main__` adds it."""

from typing import cast

from redis.asyncio import Redis

from services.kit.server import Runtime
from services.providers.admissions import Admissions
from services.providers.api.health import Health
from services.providers.api.models import Models
from services.providers.api.quotas import Quotas
from services.providers.api.tenant_ai_configs import TenantAiConfigs
from services.providers.api.usage import Usage
from services.providers.bookings import Bookings
from services.providers.budgets import Budgets
from services.providers.checks import Checks
from services.providers.counters import Counters
from services.providers.drifts import Drifts
from services.providers.engagements import Engagements
from services.providers.exchanges import Exchanges
from services.providers.invocations import Invocations
from services.providers.openings import Openings
from services.providers.rebuilds import Rebuilds
from services.providers.settings import ProvidersSettings
from services.providers.tries import Tries
from triptych.providers.v1 import (
    health_service_pb2_grpc as health_grpc,
    model_service_pb2_grpc as model_grpc,
    quota_service_pb2_grpc as quota_grpc,
    tenant_ai_config_service_pb2_grpc as config_grpc,
    usage_service_pb2_grpc as usage_grpc,
)

PACKAGE = "triptych.providers.v1"


def add(runtime: Runtime, *, store: Redis, openings: Openings) -> None:
    """Add the servicers and their background work."""
    settings = cast("ProvidersSettings", runtime.settings)
    db, pages, counters = runtime.db, runtime.pages, Counters(store)
    rebuilds, budgets = Rebuilds(db=db, counters=counters), Budgets(db=db, counters=counters)
    admissions = Admissions(db=db, counters=counters, rebuilds=rebuilds)
    bookings = Bookings(db=db, counters=counters, rebuilds=rebuilds, budgets=budgets)
    drifts = Drifts(db=db, counters=counters, rebuilds=rebuilds, budgets=budgets, registry=runtime.metrics.registry)
    exchanges = Exchanges(allow_loopback=settings.allow_loopback_endpoints, local_endpoint=settings.local_endpoint)
    checks = Checks(db=db, exchanges=exchanges, seconds=settings.health_check_seconds)
    engagements = Engagements(admissions=admissions, bookings=bookings)
    tries = Tries(exchanges=exchanges, checks=checks)
    invocations = Invocations(db=db, engagements=engagements, openings=openings, exchanges=exchanges, tries=tries)
    runtime.add(
        f"{PACKAGE}.QuotaService",
        quota_grpc.add_QuotaServiceServicer_to_server,
        Quotas(db=db, admissions=admissions, bookings=bookings),
    )
    runtime.add(
        f"{PACKAGE}.UsageService",
        usage_grpc.add_UsageServiceServicer_to_server,
        Usage(db=db, pages=pages, bookings=bookings),
    )
    runtime.add(
        f"{PACKAGE}.TenantAiConfigService",
        config_grpc.add_TenantAiConfigServiceServicer_to_server,
        TenantAiConfigs(db=db),
    )
    runtime.add(
        f"{PACKAGE}.ModelService",
        model_grpc.add_ModelServiceServicer_to_server,
        Models(invocations=invocations),
    )
    runtime.add(f"{PACKAGE}.HealthService", health_grpc.add_HealthServiceServicer_to_server, Health(db=db, pages=pages))
    runtime.background(bookings.run())
    runtime.background(drifts.run())
    runtime.background(checks.run())
    runtime.on_close(bookings.close)
    runtime.on_close(admissions.close)
    runtime.on_close(invocations.close)
