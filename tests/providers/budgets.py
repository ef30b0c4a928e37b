"""Limits of a tenant, use that is charged, and what is seen of it, for the tests of providers."""

import uuid
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from tests.suite import Person
from triptych.providers.v1 import (
    quota_service_pb2 as quota_pb,
    tenant_ai_config_service_pb2 as pb,
    usage_pb2,
    usage_service_pb2 as usage_pb,
)
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.tenant_ai_config_pb2 import TenantAiConfig
from triptych.providers.v1.tenant_ai_config_service_pb2_grpc import TenantAiConfigServiceStub
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub


async def configure(admin: Person, *mask: str, etag: str = "", **changes: Any) -> TenantAiConfig:
    """Change what a tenant as a whole may use."""
    config = TenantAiConfig(**changes, etag=etag)
    request = pb.UpdateTenantAiConfigRequest(config=config, update_mask=FieldMask(paths=mask) if mask else None)
    return (await admin.stub(TenantAiConfigServiceStub).UpdateTenantAiConfig(request)).config


async def configured(admin: Person) -> pb.GetTenantAiConfigResponse:
    """Give it, and what is used of it."""
    return await admin.stub(TenantAiConfigServiceStub).GetTenantAiConfig(pb.GetTenantAiConfigRequest())


async def hold(person: Person, provider: Provider, tokens: int = 100, **changes: Any) -> Any:
    """Reserve."""
    given: dict[str, Any] = {"provider_id": provider.id, "operation": "review", "estimated_input_tokens": tokens}
    request = quota_pb.ReserveQuotaRequest(**(given | changes))
    return (await person.stub(QuotaServiceStub).ReserveQuota(request)).reservation


async def use(person: Person, provider: Provider, tokens: int = 100, **changes: Any) -> Any:
    """Reserve and commit."""
    held = await hold(person, provider, tokens, **changes)
    request = quota_pb.CommitReservationRequest(reservation_id=held.id, input_tokens=tokens)
    return (await person.stub(QuotaServiceStub).CommitReservation(request)).reservation


async def alerts(person: Person, **changes: Any) -> list[usage_pb2.CostAlert]:
    """Give the alerts that somebody sees."""
    request = usage_pb.ListCostAlertsRequest(**changes)
    return list((await person.stub(UsageServiceStub).ListCostAlerts(request)).cost_alerts)


def record(provider: Provider, **changes: Any) -> usage_pb2.UsageRecord:
    """Make a record of use."""
    usual = {"id": str(uuid.uuid4()), "provider_id": provider.id, "operation": "embedding", "input_tokens": 1000}
    return usage_pb2.UsageRecord(**(usual | changes))  # type: ignore[arg-type]


async def report(person: Person, *records: usage_pb2.UsageRecord, **changes: Any) -> usage_pb.RecordUsageResponse:
    """Report records."""
    return await person.stub(UsageServiceStub).RecordUsage(usage_pb.RecordUsageRequest(records=records, **changes))


async def totals(person: Person, *group_by: Any, **changes: Any) -> list[usage_pb2.UsageTotal]:
    """Add up what was used."""
    request = usage_pb.ListUsageTotalsRequest(group_by=group_by, **changes)
    return list((await person.stub(UsageServiceStub).ListUsageTotals(request)).usage_totals)
