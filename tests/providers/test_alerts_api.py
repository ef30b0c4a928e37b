"""Alerts of cost over the wire: told once, watched, acknowledged."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from services.kit import faults
from services.providers import watches
from services.providers.budgets import Budgets
from tests.patience import SECONDS
from tests.providers.budgets import alerts, configure, use
from tests.suite import Person
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    quota_service_pb2 as quota_pb,
    usage_service_pb2 as usage_pb,
)
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_pb2 import Quota
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub


async def watch(person: Person, token: str = "", **changes: Any) -> list[usage_pb.WatchCostAlertsResponse]:
    """Give what a watch has to say that ends after a moment."""
    request = usage_pb.WatchCostAlertsRequest(seconds=1, resume_token=token)
    return [message async for message in person.stub(UsageServiceStub).WatchCostAlerts(request, **changes)]


async def watched(person: Person, count: int, token: str = "") -> list[usage_pb.WatchCostAlertsResponse]:
    """Wait for so many alerts: they come when nothing that began before them is under way, in any database."""
    request = usage_pb.WatchCostAlertsRequest(seconds=300, resume_token=token)
    call = person.stub(UsageServiceStub).WatchCostAlerts(request)
    found: list[Any] = [await call.read() for _ in range(count)]
    call.cancel()
    return found


async def test_alerts_of_the_budget_come_once_and_admins_alone_see_them(
    admin: Person, user: Person, provider: Provider, budgets: Budgets
) -> None:
    await configure(admin, "daily_cost_usd", daily_cost_usd="1")
    await asyncio.gather(*(use(user, provider, 90) for _ in range(9)))
    await use(admin, provider, 90)
    day = f"daily:{datetime.now(UTC).date()}"
    found = await alerts(admin)
    assert sorted((alert.window, alert.threshold_percent) for alert in found) == [(day, 80), (day, 90)]
    assert not any(alert.HasField("owner") for alert in found)
    assert not await alerts(user)
    await budgets.check(admin.tenant_id)
    assert len(await alerts(admin)) == 2


async def test_an_alert_is_acknowledged_once_by_its_owner_or_an_admin(
    admin: Person, user: Person, provider: Provider
) -> None:
    quota = Quota(owner=Principal(kind=PrincipalKind.PRINCIPAL_KIND_USER, id=user.id), daily_cost_usd="0.1")
    await admin.stub(QuotaServiceStub).SetQuota(quota_pb.SetQuotaRequest(quota=quota))
    await use(user, provider, 85)
    alert = (await alerts(user, unacknowledged_only=True))[0]
    request = usage_pb.AcknowledgeCostAlertRequest(cost_alert_id=alert.id)
    with pytest.raises(faults.NotFound) as caught:
        await admin.colleague(Role.ROLE_USER).stub(UsageServiceStub).AcknowledgeCostAlert(request)
    assert caught.value.reason == "COST_ALERT_NOT_FOUND"
    first = (await user.stub(UsageServiceStub).AcknowledgeCostAlert(request)).cost_alert
    assert first.acknowledger.id == user.id
    assert (await admin.stub(UsageServiceStub).AcknowledgeCostAlert(request)).cost_alert == first
    assert not await alerts(user, unacknowledged_only=True)
    assert await alerts(user) == [first]


async def test_a_watch_gives_each_alert_once_goes_on_where_it_was_and_ends(
    admin: Person, user: Person, provider: Provider
) -> None:
    await configure(admin, "daily_cost_usd", daily_cost_usd="1")
    await use(user, provider, 850)
    first = await watched(admin, 1)
    assert [message.cost_alert.threshold_percent for message in first] == [80]
    following = asyncio.ensure_future(watched(admin, 2, first[-1].resume_token))
    await asyncio.sleep(0.2)
    await use(user, provider, 150)
    assert [message.cost_alert.threshold_percent for message in await following] == [90, 100]
    again = await watch(admin)
    assert len({message.cost_alert.id for message in again}) == 3
    assert not await watch(user)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch(admin, "1'; DROP TABLE cost_alerts")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("xid", ["0", "3000000000", "9" * 20])
async def test_a_watch_goes_on_from_any_transaction(admin: Person, user: Person, provider: Provider, xid: str) -> None:
    await configure(admin, "daily_cost_usd", daily_cost_usd="1")
    await use(user, provider, 850)
    await watched(admin, 1)
    seen = await watch(admin, f"{xid}.{uuid.UUID(int=0)}")
    assert len(seen) == (xid == "0")


async def test_a_limit_that_is_lowered_below_what_was_used_is_told_at_once(
    admin: Person, user: Person, provider: Provider
) -> None:
    owner = Principal(kind=PrincipalKind.PRINCIPAL_KIND_USER, id=user.id)
    await use(user, provider, 850)
    assert not await alerts(admin)
    for cost in ("100", "1", "0.5", "0.5"):
        quota = Quota(owner=owner, monthly_cost_usd=cost)
        await admin.stub(QuotaServiceStub).SetQuota(quota_pb.SetQuotaRequest(quota=quota))
    assert sorted(alert.threshold_percent for alert in await alerts(user)) == [80, 90, 100]
    for budget in ("0.9", "0.9"):
        await configure(admin, "monthly_cost_usd", monthly_cost_usd=budget)
    budgets = [alert for alert in await alerts(admin) if not alert.HasField("owner")]
    assert sorted(alert.threshold_percent for alert in budgets) == [80, 90]


async def test_a_watch_ends_well_before_the_callers_deadline(admin: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "MARGIN", SECONDS)  # however slow the machine is
    request = usage_pb.WatchCostAlertsRequest(seconds=300)
    call = admin.stub(UsageServiceStub).WatchCostAlerts(request, timeout=SECONDS + 2)
    assert [message async for message in call] == []
    assert await call.code() is grpc.StatusCode.OK
