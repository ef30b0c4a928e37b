"""Reservations over the wire: held, settled, expired, repeated, and five hundred at once."""

import asyncio
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from services.kit import faults
from services.providers.bookings import Bookings
from tests.patience import eventually
from tests.providers.quotas import commit, counters, limit, patiently, release, reserve, to_reserve, windows
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import PrincipalKind
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_pb2 import ReservationState
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub


async def test_a_hold_becomes_what_was_used(
    user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, store: Redis
) -> None:
    held = await reserve(stub, provider, 1000, estimated_output_tokens=500)
    assert held.state == ReservationState.RESERVATION_STATE_HELD
    assert (held.estimated_tokens, held.estimated_cost_usd) == (1500, "2")
    assert (await windows(user))["daily_cost_usd"] == ("0", "2")
    committed = await commit(stub, held, 900, 100)
    assert committed.state == ReservationState.RESERVATION_STATE_COMMITTED
    assert committed.cost_usd == "1.1"
    assert (await windows(user))["daily_cost_usd"] == ("1.1", "0")
    assert (await windows(user))["monthly_requests"] == ("1", "0")
    assert await counters(store, user) == {
        "requests_committed": 1, "requests_held": 0, "tokens_committed": 1000, "tokens_held": 0,
        "cost_committed": 1_100_000_000, "cost_held": 0,
    }  # fmt: skip


async def test_a_released_hold_leaves_nothing(
    user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, store: Redis
) -> None:
    held = await reserve(stub, provider)
    first = await release(stub, held)
    assert first.state == ReservationState.RESERVATION_STATE_RELEASED
    assert await release(stub, held) == first
    assert not any((await counters(store, user)).values())
    with pytest.raises(faults.FailedPrecondition) as caught:
        await commit(stub, held, 1, 1)
    assert (caught.value.reason, caught.value.facts["state"]) == ("RESERVATION_SETTLED", "released")


async def test_a_second_commit_gives_the_first_answer_and_charges_nothing(
    user: Person, stub: "QuotaServiceAsyncStub", provider: Provider
) -> None:
    held = await reserve(stub, provider)
    assert await commit(stub, held, 50, 0) == await commit(stub, held, 50, 0)
    assert (await windows(user))["daily_requests"] == ("1", "0")
    for refused in (commit(stub, held, 51, 0), release(stub, held)):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await refused
        assert caught.value.reason == "RESERVATION_SETTLED"


async def test_what_does_not_fit_names_its_windows_and_when_to_come_back(
    admin: Person, user: Person, stub: "QuotaServiceAsyncStub", provider: Provider
) -> None:
    await limit(admin, user, daily_requests=5, daily_tokens=150, monthly_cost_usd="0.15")
    await reserve(stub, provider)
    with pytest.raises(faults.ResourceExhausted) as caught:
        await reserve(stub, provider)
    fault = caught.value
    assert fault.reason == "QUOTA_EXCEEDED"
    assert fault.violations == {"daily_tokens": "the limit is 150", "monthly_cost_usd": "the limit is 0.15"}
    assert (fault.facts["window"], fault.facts["limit"]) == ("daily_tokens", "150")
    assert fault.retry_after is not None
    assert timedelta(0) < fault.retry_after <= timedelta(days=31)
    assert (await windows(user))["daily_requests"] == ("0", "1")  # nothing of the refused one is held
    await reserve(stub, provider, 50)


async def test_of_five_hundred_at_once_exactly_as_many_are_admitted_as_fit(
    admin: Person, user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, store: Redis
) -> None:
    await limit(admin, user, daily_requests=100, daily_cost_usd="1000")
    seen: list[int] = []
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            now = await counters(store, user)
            seen.append(now.get("requests_committed", 0) + now.get("requests_held", 0))
            await asyncio.sleep(0.01)

    async def work(number: int) -> Any:
        request = to_reserve(provider, 10, request_id=str(uuid.uuid4()))
        answer = await patiently(lambda: stub.ReserveQuota(request))
        if not isinstance(answer, faults.Fault) and number % 2:
            await patiently(lambda: commit(stub, answer.reservation, 5, 1))
        return answer

    watcher = asyncio.create_task(watch())
    try:
        answers = await asyncio.gather(*(work(number) for number in range(500)))
    finally:
        done.set()
        await watcher
    refused = [answer for answer in answers if isinstance(answer, faults.Fault)]
    assert {fault.reason for fault in refused} == {"QUOTA_EXCEEDED"}
    assert len(answers) - len(refused) == 100
    assert max(seen) <= 100
    committed, held = (await windows(user))["daily_requests"]
    assert int(committed) + int(held) == 100
    # What was given up by a call without time left is put right beside it.
    now = await eventually(lambda: counters(store, user), lambda now: now["requests_held"] == int(held))
    assert now["requests_committed"] == int(committed)


async def test_the_same_request_holds_once_also_when_fifty_come_at_once(
    admin: Person, user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, store: Redis
) -> None:
    await limit(admin, user, daily_requests=1)
    request = to_reserve(provider, request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(patiently(lambda: stub.ReserveQuota(request)) for _ in range(50)))
    assert len({answer.reservation.id for answer in answers}) == 1
    assert await stub.ReserveQuota(request) == answers[0]  # though the quota is used up
    assert (await counters(store, user))["requests_held"] == 1


async def test_a_hold_ends_by_itself_and_a_late_commit_is_still_charged_once(  # noqa: PLR0917 - fixtures
    user: Person,
    stub: "QuotaServiceAsyncStub",
    provider: Provider,
    bookings: Bookings,
    superuser: Any,
    store: Redis,
) -> None:
    held = await reserve(stub, provider)
    await superuser.execute("UPDATE reservations SET expire_time = now() - interval '1 second' WHERE id = $1", held.id)
    await bookings.sweep()
    row = await superuser.fetchrow("SELECT state FROM reservations WHERE id = $1", held.id)
    assert row["state"] == "expired"
    audited = "SELECT count(*) FROM outbox WHERE entity = $1 AND action = 'providers.quota.expire'"
    assert await superuser.fetchval(audited, f"reservation:{held.id}") == 1
    assert (await windows(user))["daily_requests"] == ("0", "0")
    late = await commit(stub, held, 100, 0)
    assert late.cost_usd == "0.1"
    assert await commit(stub, held, 100, 0) == late
    assert (await windows(user))["daily_requests"] == ("1", "0")
    assert (await counters(store, user))["requests_committed"] == 1


async def test_an_expired_hold_may_be_released_and_is_then_settled(
    stub: "QuotaServiceAsyncStub", provider: Provider, bookings: Bookings, superuser: Any
) -> None:
    held = await reserve(stub, provider)
    await superuser.execute("UPDATE reservations SET expire_time = now() - interval '1 second' WHERE id = $1", held.id)
    await bookings.sweep()
    assert (await release(stub, held)).state == ReservationState.RESERVATION_STATE_RELEASED


async def test_a_new_price_changes_nothing_that_was_reserved_before(
    user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, superuser: Any
) -> None:
    before = await reserve(stub, provider, 1000)
    await superuser.execute(
        "INSERT INTO price_versions (tenant_id, provider_id, input_cost_usd_per_1k, output_cost_usd_per_1k)"
        " VALUES ($1, $2, 7, 7)",
        user.tenant_id,
        provider.id,
    )
    after = await reserve(stub, provider, 1000)
    assert ((await commit(stub, before, 1000, 0)).cost_usd, (await commit(stub, after, 1000, 0)).cost_usd) == ("1", "7")


async def test_a_reservation_is_its_owners_alone(
    admin: Person, suite: Suite, stub: "QuotaServiceAsyncStub", provider: Provider
) -> None:
    held = await reserve(stub, provider)
    for person in (admin, suite.person()):
        for act in (commit(person.stub(QuotaServiceStub), held, 1, 1), release(person.stub(QuotaServiceStub), held)):
            with pytest.raises(faults.NotFound) as caught:
                await act
            assert caught.value.reason == "RESERVATION_NOT_FOUND"


async def test_a_service_reserves_on_its_own_account_when_it_works_by_itself(
    admin: Person, suite: Suite, provider: Provider
) -> None:
    service = (await suite.service("experiments", admin.tenant_id)).stub(QuotaServiceStub)
    held = await reserve(service, provider)
    assert (held.owner.kind, held.owner.id) == (PrincipalKind.PRINCIPAL_KIND_SERVICE, "experiments")
    await commit(service, held, 1, 1)


async def test_nothing_is_reserved_at_a_provider_that_is_off_or_unknown(
    stub: "QuotaServiceAsyncStub", provider: Provider, superuser: Any
) -> None:
    await superuser.execute("UPDATE providers SET active = false WHERE id = $1", provider.id)
    with pytest.raises(faults.FailedPrecondition) as inactive:
        await reserve(stub, provider)
    assert inactive.value.reason == "PROVIDER_INACTIVE"
    with pytest.raises(faults.NotFound) as unknown:
        await reserve(stub, Provider(id=str(uuid.uuid4())))
    assert unknown.value.reason == "PROVIDER_NOT_FOUND"


async def test_a_hold_lasts_ten_seconds_at_least(stub: "QuotaServiceAsyncStub", provider: Provider) -> None:
    with pytest.raises(faults.InvalidArgument):
        await reserve(stub, provider, hold_seconds=9)
