"""Quotas over the wire: defaults, limits, alerts, sums; who sees and sets them."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from services.kit import faults
from tests.providers.conftest import AddProvider
from tests.providers.quotas import commit, limit, patiently, principal, reserve
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import quota_service_pb2 as pb, usage_service_pb2 as usage_pb
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_pb2 import Quota
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (Role.ROLE_ADMIN, (10_000, 300_000, "1000", "30000")),
        (Role.ROLE_USER, (1_000, 30_000, "100", "3000")),
    ],
)
async def test_a_role_has_its_default(admin: Person, role: "Role.ValueType", expected: tuple[object, ...]) -> None:
    answer = await admin.colleague(role).stub(QuotaServiceStub).GetQuota(pb.GetQuotaRequest())
    quota = answer.quota
    shown = (quota.daily_requests, quota.monthly_requests, quota.daily_cost_usd, quota.monthly_cost_usd)
    assert shown == expected
    assert not quota.custom
    assert not quota.HasField("daily_tokens")
    assert [window.name for window in answer.windows] == [
        "daily_requests", "monthly_requests", "daily_cost_usd", "monthly_cost_usd", "concurrent_requests",
    ]  # fmt: skip
    assert all(window.reset_time.ToDatetime(UTC) > datetime.now(UTC) for window in answer.windows[:4])
    assert quota.concurrent_requests == (100 if role == Role.ROLE_ADMIN else 10)


async def test_a_viewer_for_whom_a_service_works_has_the_viewers_default(
    admin: Person, suite: Suite, provider: Provider
) -> None:
    viewer = admin.colleague(Role.ROLE_VIEWER)
    stub = (await suite.service("production", viewer)).stub(QuotaServiceStub)
    await reserve(stub, provider)
    request = pb.GetQuotaRequest(owner=principal(viewer))
    assert (await admin.stub(QuotaServiceStub).GetQuota(request)).quota.daily_requests == 100


async def test_a_limit_of_nothing_forbids(
    admin: Person, user: Person, stub: "QuotaServiceAsyncStub", provider: Provider
) -> None:
    await limit(admin, user, daily_requests=0)
    with pytest.raises(faults.ResourceExhausted):
        await reserve(stub, provider)


async def test_alerts_come_once_for_each_threshold_and_window(
    admin: Person, user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, superuser: Any
) -> None:
    await limit(admin, user, daily_cost_usd="1", monthly_cost_usd="10")
    held = [await reserve(stub, provider, 100) for _ in range(10)]
    await asyncio.gather(*(patiently(lambda one=one: commit(stub, one, 100, 0)) for one in held))  # type: ignore[misc]
    answer = await user.stub(UsageServiceStub).ListCostAlerts(usage_pb.ListCostAlertsRequest())
    day = f"daily:{datetime.now(UTC).date()}"
    assert sorted((alert.window, alert.threshold_percent) for alert in answer.cost_alerts) == [
        (day, 80), (day, 90), (day, 100),
    ]  # fmt: skip
    seen = await admin.stub(UsageServiceStub).ListCostAlerts(usage_pb.ListCostAlertsRequest())
    assert seen.cost_alerts == answer.cost_alerts
    other = admin.colleague(Role.ROLE_USER).stub(UsageServiceStub)
    assert not (await other.ListCostAlerts(usage_pb.ListCostAlertsRequest())).cost_alerts
    sql = "SELECT count(*) FROM outbox WHERE tenant_id = $1 AND action = 'providers.cost.alert'"
    assert await superuser.fetchval(sql, user.tenant_id) == 3


async def test_usage_is_summed_by_day_and_seen_by_owner_and_admin(
    admin: Person, user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, add_provider: AddProvider
) -> None:
    second = await add_provider()
    for target in (provider, provider, second):
        await commit(stub, await reserve(stub, target), 10, 5)
    mine = user.stub(UsageServiceStub)
    usage = (await mine.ListUsage(usage_pb.ListUsageRequest())).usage
    assert sorted((row.provider_name, row.request_count, row.cost_usd) for row in usage) == sorted(
        [(provider.name, 2, "0.04"), (second.name, 1, "0.02")]
    )
    first = await admin.stub(UsageServiceStub).ListUsage(usage_pb.ListUsageRequest(page_size=1))
    request = usage_pb.ListUsageRequest(page_size=1, page_token=first.next_page_token)
    rest = await admin.stub(UsageServiceStub).ListUsage(request)
    assert [*first.usage, *rest.usage] == list(usage)
    stranger = admin.colleague(Role.ROLE_USER).stub(UsageServiceStub)
    assert not (await stranger.ListUsage(usage_pb.ListUsageRequest())).usage
    assert not (await mine.ListUsage(usage_pb.ListUsageRequest(end_date="2001-01-01"))).usage
    with pytest.raises(faults.InvalidArgument):
        await mine.ListUsage(usage_pb.ListUsageRequest(start_date="2026-02-30"))


async def test_a_quota_is_set_whole_and_by_who_read_it_last(admin: Person, user: Person) -> None:
    stub = admin.stub(QuotaServiceStub)
    read = (await stub.GetQuota(pb.GetQuotaRequest(owner=principal(user)))).quota
    wanted = Quota(owner=principal(user), daily_tokens=5, monthly_cost_usd="12.50", etag=read.etag)
    results = await asyncio.gather(
        *(stub.SetQuota(pb.SetQuotaRequest(quota=wanted)) for _ in range(2)), return_exceptions=True
    )
    lost = [result for result in results if isinstance(result, faults.Aborted)]
    assert [fault.reason for fault in lost] == ["ETAG_MISMATCH"]
    quota = (await user.stub(QuotaServiceStub).GetQuota(pb.GetQuotaRequest())).quota
    assert quota.custom
    assert (quota.daily_tokens, quota.monthly_cost_usd) == (5, "12.5")
    assert not quota.HasField("daily_requests")


@pytest.mark.parametrize("limits", [{"monthly_cost_usd": "9000000.01"}, {"daily_tokens": 2**53}])
async def test_a_limit_that_cannot_be_kept_exactly_is_refused(
    admin: Person, user: Person, limits: dict[str, Any]
) -> None:
    with pytest.raises(faults.InvalidArgument):
        await limit(admin, user, **limits)


async def test_another_persons_quota_is_an_admins_to_see(admin: Person, user: Person) -> None:
    with pytest.raises(faults.NotFound) as caught:
        await user.stub(QuotaServiceStub).GetQuota(pb.GetQuotaRequest(owner=principal(admin)))
    assert caught.value.reason == "QUOTA_NOT_FOUND"
    with pytest.raises(faults.PermissionDenied):
        await limit(user, user, daily_requests=10**6)


async def test_an_agent_needs_the_scope_and_has_a_users_default(
    admin: Person, suite: Suite, provider: Provider
) -> None:
    claims = {"sub": str(uuid.uuid4()), "tid": admin.tenant_id, "kind": "agent", "role": 0}

    def agent(scope: str) -> "QuotaServiceAsyncStub":
        token = suite.issuer.token(claims | {"scope": scope})
        return QuotaServiceStub(suite.channel(QuotaServiceStub, (("authorization", f"Bearer {token}"),)))

    held = await reserve(agent("quotas.reserve"), provider)
    assert (held.owner.kind, held.owner.id) == (PrincipalKind.PRINCIPAL_KIND_AGENT, claims["sub"])
    assert (await agent("quotas.get").GetQuota(pb.GetQuotaRequest())).quota.daily_requests == 1000
    with pytest.raises(faults.PermissionDenied):
        await reserve(agent("quotas.get"), provider)
