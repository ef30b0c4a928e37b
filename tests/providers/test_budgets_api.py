"""What a tenant as a whole may use: the switch, the budgets, prices and roles, alerts, and reports of use."""

import asyncio
import csv
import io
import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from redis.asyncio import Redis

from services.kit import faults
from services.kit.server import Runtime
from services.kit.settings import SettingsInvalid
from services.providers.bookings import Bookings
from services.providers.budgets import Budgets
from services.providers.counters import Counters
from services.providers.drifts import Drifts
from services.providers.rebuilds import Rebuilds
from tests.providers.conftest import AddProvider
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    quota_service_pb2 as quota_pb,
    tenant_ai_config_pb2,
    tenant_ai_config_service_pb2 as pb,
    usage_pb2,
    usage_service_pb2 as usage_pb,
)
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_pb2 import Quota
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.tenant_ai_config_pb2 import TenantAiConfig
from triptych.providers.v1.tenant_ai_config_service_pb2_grpc import TenantAiConfigServiceStub
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub


@pytest.fixture
async def provider(add_provider: AddProvider) -> Provider:
    return await add_provider()


@pytest.fixture
def counters(store: Redis) -> Counters:
    return Counters(store)


@pytest.fixture
def rebuilds(runtime: Runtime, counters: Counters) -> Rebuilds:
    return Rebuilds(db=runtime.db, counters=counters)


@pytest.fixture
def budgets(runtime: Runtime, counters: Counters) -> Budgets:
    return Budgets(db=runtime.db, counters=counters)


@pytest.fixture
def bookings(runtime: Runtime, counters: Counters, rebuilds: Rebuilds, budgets: Budgets) -> Bookings:
    return Bookings(db=runtime.db, counters=counters, rebuilds=rebuilds, budgets=budgets)


async def configure(admin: Person, *mask: str, etag: str = "", **changes: Any) -> TenantAiConfig:
    config = TenantAiConfig(**changes, etag=etag)
    request = pb.UpdateTenantAiConfigRequest(config=config, update_mask=FieldMask(paths=mask) if mask else None)
    return (await admin.stub(TenantAiConfigServiceStub).UpdateTenantAiConfig(request)).config


async def configured(admin: Person) -> pb.GetTenantAiConfigResponse:
    return await admin.stub(TenantAiConfigServiceStub).GetTenantAiConfig(pb.GetTenantAiConfigRequest())


async def reserve(person: Person, provider: Provider, tokens: int = 100, **changes: Any) -> Any:
    given: dict[str, Any] = {"provider_id": provider.id, "operation": "review", "estimated_input_tokens": tokens}
    request = quota_pb.ReserveQuotaRequest(**(given | changes))
    return (await person.stub(QuotaServiceStub).ReserveQuota(request)).reservation


async def use(person: Person, provider: Provider, tokens: int = 100, **changes: Any) -> Any:
    held = await reserve(person, provider, tokens, **changes)
    request = quota_pb.CommitReservationRequest(reservation_id=held.id, input_tokens=tokens)
    return (await person.stub(QuotaServiceStub).CommitReservation(request)).reservation


async def alerts(person: Person, **changes: Any) -> list[usage_pb2.CostAlert]:
    request = usage_pb.ListCostAlertsRequest(**changes)
    return list((await person.stub(UsageServiceStub).ListCostAlerts(request)).cost_alerts)


async def watch(person: Person, seconds: int = 1, token: str = "") -> list[usage_pb.WatchCostAlertsResponse]:
    request = usage_pb.WatchCostAlertsRequest(seconds=seconds, resume_token=token)
    return [message async for message in person.stub(UsageServiceStub).WatchCostAlerts(request)]


def record(provider: Provider, **changes: Any) -> usage_pb2.UsageRecord:
    usual = {"id": str(uuid.uuid4()), "provider_id": provider.id, "operation": "embedding", "input_tokens": 1000}
    return usage_pb2.UsageRecord(**(usual | changes))  # type: ignore[arg-type]


async def report(person: Person, *records: usage_pb2.UsageRecord, **changes: Any) -> usage_pb.RecordUsageResponse:
    return await person.stub(UsageServiceStub).RecordUsage(usage_pb.RecordUsageRequest(records=records, **changes))


async def totals(person: Person, *group_by: Any, **changes: Any) -> list[usage_pb2.UsageTotal]:
    request = usage_pb.ListUsageTotalsRequest(group_by=group_by, **changes)
    return list((await person.stub(UsageServiceStub).ListUsageTotals(request)).usage_totals)


@pytest.mark.parametrize(
    "changes", [{"local_endpoint": "ftp://x"}, {"local_endpoint": "http://x/?key=1"}, {"health_check_seconds": -1}]
)
def test_settings_that_cannot_be_meant_stop_the_start(suite: Suite, changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsInvalid):
        suite.settings("providers", **changes)


async def test_a_tenant_that_never_set_anything_may_use_everything(admin: Person, provider: Provider) -> None:
    answer = await configured(admin)
    assert answer.config.ai_enabled
    assert not answer.windows
    await reserve(admin, provider)


async def test_a_change_keeps_what_it_does_not_name(admin: Person) -> None:
    first = await configure(admin, "monthly_cost_usd", "daily_requests", monthly_cost_usd="1.50", daily_requests=7)
    assert (first.ai_enabled, first.monthly_cost_usd, first.daily_requests) == (True, "1.5", 7)
    second = await configure(admin, "ai_enabled", "daily_requests", ai_enabled=False)
    assert (second.ai_enabled, second.monthly_cost_usd, second.HasField("daily_requests")) == (False, "1.5", False)
    assert (await configured(admin)).config == second
    with pytest.raises(faults.Aborted) as caught:
        await configure(admin, "ai_enabled", etag=first.etag, ai_enabled=True)
    assert caught.value.reason == "ETAG_MISMATCH"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"monthly_cost_usd": "99999999"}, "REQUEST_INVALID"), ({"daily_requests": -1}, "REQUEST_INVALID"),
        ({"monthly_cost_usd": "NaN"}, "REQUEST_INVALID"),
        ({"price_overrides": [{"provider_id": str(uuid.uuid4())}]}, "PROVIDER_NOT_FOUND"),
        ({"tier_overrides": [{"role": 3}, {"role": 3}]}, "REQUEST_INVALID"),
    ],
)  # fmt: skip
async def test_a_configuration_out_of_shape_is_refused(admin: Person, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(faults.Fault) as caught:
        await configure(admin, *changes, **changes)
    assert caught.value.reason == reason


async def test_only_admins_see_and_change_it(user: Person) -> None:
    for call in (configured(user), configure(user, "ai_enabled", ai_enabled=False)):
        with pytest.raises(faults.PermissionDenied):
            await call


async def test_the_switch_refuses_everything_at_once(admin: Person, user: Person, provider: Provider) -> None:
    held = await reserve(user, provider)
    await configure(admin, "ai_enabled", ai_enabled=False)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await reserve(user, provider)
    assert caught.value.reason == "AI_DISABLED"
    request = quota_pb.CommitReservationRequest(reservation_id=held.id, input_tokens=1)
    await user.stub(QuotaServiceStub).CommitReservation(request)  # what is under way ends
    await configure(admin, "ai_enabled", ai_enabled=True)
    await reserve(user, provider)


async def test_a_role_may_use_the_providers_that_are_named_for_it(
    admin: Person, user: Person, provider: Provider, add_provider: AddProvider
) -> None:
    other = await add_provider()
    entry = tenant_ai_config_pb2.TierOverride(role=Role.ROLE_USER, provider_ids=[other.id])
    await configure(admin, "tier_overrides", tier_overrides=[entry])
    with pytest.raises(faults.PermissionDenied) as caught:
        await reserve(user, provider)
    assert caught.value.reason == "PROVIDER_NOT_ALLOWED"
    await reserve(user, other)
    await reserve(admin, provider)


async def test_the_tenants_price_takes_the_place_of_the_catalogues(admin: Person, provider: Provider) -> None:
    price = tenant_ai_config_pb2.PriceOverride(provider_id=provider.id, input_cost_usd_per_1k="0.5")
    await configure(admin, "price_overrides", price_overrides=[price])
    assert (await use(admin, provider, 1000)).cost_usd == "0.5"


async def test_the_budget_is_everybodys_together(admin: Person, user: Person, provider: Provider) -> None:
    await configure(admin, "daily_requests", "monthly_cost_usd", daily_requests=2, monthly_cost_usd="100")
    await reserve(admin, provider)
    await use(user, provider)
    for person in (admin, user, admin.colleague(Role.ROLE_USER)):
        with pytest.raises(faults.ResourceExhausted) as caught:
            await reserve(person, provider)
        assert (caught.value.reason, caught.value.facts["window"]) == ("QUOTA_EXCEEDED", "tenant_daily_requests")
        assert caught.value.retry_after is not None
    shown = {window.name: (window.committed, window.held) for window in (await configured(admin)).windows}
    assert shown == {"daily_requests": ("1", "1"), "monthly_cost_usd": ("0.1", "0.1")}


async def test_of_two_hundred_of_ten_people_as_many_are_admitted_as_the_tenant_may(
    admin: Person, provider: Provider, counters: Counters
) -> None:
    await configure(admin, "daily_requests", daily_requests=40)
    people = [admin.colleague(Role.ROLE_ADMIN) for _ in range(10)]

    async def ask(person: Person) -> str:
        while True:
            try:
                await reserve(person, provider, 1, request_id=str(uuid.uuid4()))
            except faults.ResourceExhausted as fault:
                if fault.reason == "QUOTA_EXCEEDED":
                    return fault.facts["window"]
            except faults.Unavailable:
                pass
            else:
                return ""
            await asyncio.sleep(0.02)

    answers = await asyncio.gather(*(ask(person) for person in people for _ in range(20)))
    assert answers.count("") == 40
    assert set(answers) == {"", "tenant_daily_requests"}


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
    first = await watch(admin)
    assert [message.cost_alert.threshold_percent for message in first] == [80]
    following = asyncio.ensure_future(watch(admin, 3, first[-1].resume_token))
    await asyncio.sleep(0.2)
    await use(user, provider, 150)
    assert [message.cost_alert.threshold_percent for message in await following] == [90, 100]
    again = await watch(admin)
    assert len({message.cost_alert.id for message in again}) == 3
    assert not await watch(user)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch(admin, token="1'; DROP TABLE cost_alerts")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("xid", ["0", "3000000000", "9" * 20])
async def test_a_watch_goes_on_from_any_transaction(admin: Person, user: Person, provider: Provider, xid: str) -> None:
    await configure(admin, "daily_cost_usd", daily_cost_usd="1")
    await use(user, provider, 850)
    seen = await watch(admin, token=f"{xid}.{uuid.UUID(int=0)}")
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


async def test_a_watch_ends_well_before_the_callers_deadline(admin: Person) -> None:
    call = admin.stub(UsageServiceStub).WatchCostAlerts(usage_pb.WatchCostAlertsRequest(seconds=300), timeout=2)
    assert [message async for message in call] == []
    assert await call.code() is grpc.StatusCode.OK


async def test_records_are_charged_once_in_whichever_requests_they_come(
    admin: Person, user: Person, provider: Provider, counters: Counters
) -> None:
    one, two = record(provider), record(provider, output_tokens=500)
    answer = await report(user, one, two, one)
    assert (answer.recorded, answer.repeated_before, answer.cost_usd) == (2, 1, "3")
    answer = await report(user, two, record(provider, input_tokens=0))
    assert (answer.recorded, answer.repeated_before, answer.cost_usd) == (1, 1, "0")
    for changed in (record(provider, id=two.id), record(provider, id=one.id, operation="vision")):
        with pytest.raises(faults.InvalidArgument) as caught:
            await report(user, record(provider), changed)
        assert (caught.value.reason, caught.value.facts["id"]) == ("USAGE_RECORD_REUSED", changed.id)
    total = (await totals(user, usage_pb2.USAGE_GROUPING_DAY))[0]
    assert (total.request_count, total.input_tokens, total.output_tokens, total.cost_usd) == (3, 2000, 500, "3")
    assert (await report(admin, one)).recorded == 1  # the id is the owner's
    quota = await user.stub(QuotaServiceStub).GetQuota(quota_pb.GetQuotaRequest())
    assert {window.name: window.committed for window in quota.windows}["daily_requests"] == "3"


async def test_the_same_records_at_once_are_charged_once(user: Person, provider: Provider) -> None:
    records = [record(provider, input_tokens=number) for number in range(20)]
    orders = [records[at:] + records[:at] for at in range(10)]
    answers = await asyncio.gather(*(report(user, *order) for order in orders))
    assert sum(answer.recorded for answer in answers) == 20
    assert (await totals(user, usage_pb2.USAGE_GROUPING_DAY))[0].request_count == 20


@pytest.mark.parametrize("counts", [{"input_tokens": -1}, {"output_tokens": 100_000_001}, {"operation": "X"}])
async def test_a_record_out_of_shape_is_refused(user: Person, provider: Provider, counts: dict[str, Any]) -> None:
    with pytest.raises(faults.InvalidArgument):
        await report(user, record(provider, **counts))


async def test_records_of_unknown_providers_or_of_too_much_money_are_refused_whole(
    user: Person, provider: Provider, add_provider: AddProvider
) -> None:
    with pytest.raises(faults.NotFound):
        await report(user, record(provider), record(provider, provider_id=str(uuid.uuid4())))
    dear = await add_provider(input_cost_usd_per_1k="80000")
    with pytest.raises(faults.InvalidArgument):
        await report(user, *(record(dear, input_tokens=100_000) for _ in range(2)))
    assert not await totals(user, usage_pb2.USAGE_GROUPING_DAY)


async def test_a_charge_that_counters_were_not_told_of_is_counted_by_the_sweep(  # noqa: PLR0917 - fixtures
    admin: Person,
    user: Person,
    provider: Provider,
    bookings: Bookings,
    counters: Counters,
    superuser: Any,
    store: Redis,
) -> None:
    await use(user, provider)
    await superuser.execute(
        "INSERT INTO usage_charges (tenant_id, owner_kind, owner_id, create_time)"
        " VALUES ($1, 'user', $2, now() - interval '1 minute')", user.tenant_id, user.id,
    )  # fmt: skip
    tag = f"quota:{{{user.tenant_id}}}:user:{user.id}:{datetime.now(UTC).date()}"
    await store.hset(tag, "requests_committed", "0")
    await bookings.sweep()
    assert int(await store.hget(tag, "requests_committed") or 0) == 1
    await bookings.sweep()
    assert await superuser.fetchval("SELECT count(*) FROM usage_charges WHERE tenant_id = $1", user.tenant_id) == 0


async def test_usage_is_added_up_by_whatever_is_asked_for(
    admin: Person, user: Person, provider: Provider, add_provider: AddProvider
) -> None:
    other = await add_provider(model_name="embedder")
    await use(user, provider, 1000, operation="review")
    await use(admin, provider, 1000, operation="vision")
    await report(user, record(other, input_tokens=2000), record(other, operation="guardrail"))
    by_operation = await totals(admin, usage_pb2.USAGE_GROUPING_OPERATION)
    assert [(total.operation, total.cost_usd) for total in by_operation] == [
        ("embedding", "2"), ("guardrail", "1"), ("review", "1"), ("vision", "1"),
    ]  # fmt: skip
    by_model = await totals(admin, usage_pb2.USAGE_GROUPING_MODEL)
    assert {(total.model_name, total.provider_name, total.cost_usd) for total in by_model} == {
        ("reviewer", provider.name, "2"), ("embedder", other.name, "3"),
    }  # fmt: skip
    by_owner = await totals(admin, usage_pb2.USAGE_GROUPING_OWNER, usage_pb2.USAGE_GROUPING_DAY)
    assert {(total.owner.id, total.request_count) for total in by_owner} == {(user.id, 3), (admin.id, 1)}
    assert {total.date for total in by_owner} == {str(datetime.now(UTC).date())}
    assert len(await totals(user, usage_pb2.USAGE_GROUPING_OPERATION)) == 3  # what is not theirs is not seen
    assert not await totals(user, usage_pb2.USAGE_GROUPING_DAY, end_date="2020-01-01")
    request = usage_pb.ListUsageTotalsRequest(group_by=[usage_pb2.USAGE_GROUPING_OPERATION], page_size=3)
    stub = admin.stub(UsageServiceStub)
    first = await stub.ListUsageTotals(request)
    request.page_token = first.next_page_token
    second = await stub.ListUsageTotals(request)
    assert [*first.usage_totals, *second.usage_totals] == by_operation
    assert not second.next_page_token


async def test_the_ledger_comes_as_csv_and_runs_no_formulas(
    admin: Person, user: Person, add_provider: AddProvider
) -> None:
    provider = await add_provider(model_name='=cmd|"/c calc"!A1')
    await report(user, *(record(provider) for _ in range(3)))
    used = await use(user, provider)
    stub = user.stub(UsageServiceStub)
    chunks = [message.chunk async for message in stub.ExportUsage(usage_pb.ExportUsageRequest())]
    rows = list(csv.DictReader(io.StringIO("".join(chunks), newline="")))
    assert len(rows) == 4
    assert {row["model"] for row in rows} == {'\'=cmd|"/c calc"!A1'}
    assert [row["reservation_id"] for row in rows if row["reservation_id"]] == [used.id]
    assert {row["owner_id"] for row in rows} == {user.id}
    other = admin.colleague(Role.ROLE_USER).stub(UsageServiceStub)
    assert len([message async for message in other.ExportUsage(usage_pb.ExportUsageRequest())]) == 1  # the header


async def test_drift_is_found_told_and_repaired(  # noqa: PLR0917 - fixtures
    runtime: Runtime, user: Person, provider: Provider, counters: Counters, rebuilds: Rebuilds, budgets: Budgets,
    store: Redis, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from prometheus_client import CollectorRegistry

    from services.providers import drifts

    monkeypatch.setattr(drifts, "AGAIN_SECONDS", 0.05)
    registry = CollectorRegistry()
    checked = Drifts(db=runtime.db, counters=counters, rebuilds=rebuilds, budgets=budgets, registry=registry)
    await checked.check()  # whatever other tests have left
    await use(user, provider, 1000)
    await reserve(user, provider)
    assert await checked._lasting(user.tenant_id, await _owner(user)) is None
    tag = f"quota:{{{user.tenant_id}}}:user:{user.id}:{datetime.now(UTC).date()}"
    await store.hincrby(tag, "cost_committed", 2_000_000_000)
    assert await checked.check() >= 1
    assert registry.get_sample_value("triptych_quota_drift_usd") == 2.0
    assert int(await store.hget(tag, "cost_committed") or 0) == 1_000_000_000
    assert await checked._lasting(user.tenant_id, await _owner(user)) is None


async def _owner(person: Person) -> Any:
    from services.providers.owners import Owner

    return Owner("user", person.id)


async def test_nothing_of_another_tenant_is_seen(suite: Suite, user: Person, provider: Provider) -> None:
    await use(user, provider)
    stranger = suite.person(Role.ROLE_ADMIN)
    assert not await totals(stranger, usage_pb2.USAGE_GROUPING_DAY)
    assert not await alerts(stranger)
    with pytest.raises(faults.NotFound):
        await report(stranger, record(provider))
