"""Use over the wire: records charged once, totals, the ledger as CSV, and counters that drift from it."""

import asyncio
import csv
import io
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis

from services.kit import faults
from services.kit.server import Runtime
from services.providers import money
from services.providers.bookings import Bookings
from services.providers.budgets import Budgets
from services.providers.counters import Counters
from services.providers.drifts import Drifts
from services.providers.rebuilds import Rebuilds
from tests.providers.budgets import alerts, hold, record, report, totals, use
from tests.providers.conftest import AddProvider
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    quota_service_pb2 as quota_pb,
    usage_pb2,
    usage_service_pb2 as usage_pb,
)
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub


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


async def test_records_of_many_kinds_cost_what_each_costs_and_the_roll_up_says_the_same(
    user: Person, provider: Provider, add_provider: AddProvider, superuser: Any
) -> None:
    cheap = await add_provider(model_name="cheap", input_cost_usd_per_1k="0.0000003", output_cost_usd_per_1k="0.7")
    kinds = [(each, operation) for each in (provider, cheap) for operation in ("review", "vision")]
    records = [
        record(kinds[number % 4][0], operation=kinds[number % 4][1], input_tokens=number, output_tokens=3 * number)
        for number in range(40)
    ]
    await report(user, *records[:10])
    answer = await report(user, *records)
    assert (answer.recorded, answer.repeated_before) == (30, 10)
    rows = await superuser.fetch("SELECT * FROM usage_events WHERE owner_id = $1", user.id)
    given = {one.id: one for one in records}
    assert len(rows) == 40
    for row in rows:
        one = given[str(row["record_id"])]
        assert (str(row["provider_id"]), row["operation"]) == (one.provider_id, one.operation)
        prices = {provider.id: ("1", "2"), cheap.id: ("0.0000003", "0.7")}[one.provider_id]
        cost = money.cost(one.input_tokens, one.output_tokens, *map(Decimal, prices))
        assert (row["cost_usd"], row["cost_nano"]) == (cost, money.nano(cost))
    sums = "count(*)::bigint, sum(input_tokens), sum(output_tokens), sum(cost_usd), sum(cost_nano)"
    daily = "sum(request_count)::bigint, sum(input_tokens), sum(output_tokens), sum(cost_usd), sum(cost_nano)"
    by = "GROUP BY provider_id, model_name ORDER BY provider_id"
    ledger = await superuser.fetch(f"SELECT {sums} FROM usage_events WHERE owner_id = $1 {by}", user.id)
    rolled_up = await superuser.fetch(f"SELECT {daily} FROM usage_tracking WHERE owner_id = $1 {by}", user.id)
    assert [tuple(row) for row in ledger] == [tuple(row) for row in rolled_up]
    assert len(ledger) == 2


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
    await hold(user, provider)
    assert await checked._lasting(user.tenant_id, await _owner(user)) is None
    tag = f"quota:{{{user.tenant_id}}}:user:{user.id}:{datetime.now(UTC).date()}"
    await store.hincrby(tag, "cost_committed", 2_000_000_000)
    assert await checked.check() >= 1
    assert registry.get_sample_value("triptych_quota_drift_usd") == 2.0
    assert int(await store.hget(tag, "cost_committed") or 0) == 1_000_000_000
    assert await checked._lasting(user.tenant_id, await _owner(user)) is None


async def test_nothing_of_another_tenant_is_seen(suite: Suite, user: Person, provider: Provider) -> None:
    await use(user, provider)
    stranger = suite.person(Role.ROLE_ADMIN)
    assert not await totals(stranger, usage_pb2.USAGE_GROUPING_DAY)
    assert not await alerts(stranger)
    with pytest.raises(faults.NotFound):
        await report(stranger, record(provider))


async def _owner(person: Person) -> Any:
    from services.providers.owners import Owner

    return Owner("user", person.id)
