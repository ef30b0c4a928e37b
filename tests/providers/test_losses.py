"""What is lost or away: counters, Valkey, a process between two steps. Nothing is forgotten, no limit passed."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - what a client meets

from services.kit import faults
from services.kit.server import Runtime
from services.providers.bookings import Bookings
from services.providers.counters import Counters
from services.providers.owners import Owner
from services.providers.rebuilds import Rebuilds
from tests.patience import eventually
from tests.providers.conftest import AddProvider
from tests.providers.quotas import (
    bookings_with,
    commit,
    counters,
    limit,
    patiently,
    release,
    reserve,
    to_reserve,
    windows,
)
from tests.suite import Person, Suite
from triptych.providers.v1 import usage_service_pb2 as usage_pb
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub

CLOSED = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("lost", ["everything", "window", "holds"])
async def test_lost_counters_are_rebuilt_before_anything_is_admitted(  # noqa: PLR0917 - fixtures
    admin: Person, user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, store: Redis, lost: str
) -> None:
    await limit(admin, user, daily_requests=3)
    await commit(stub, await reserve(stub, provider), 10, 0)
    held = await reserve(stub, provider)
    before = await counters(store, user)
    tag = f"quota:{{{user.tenant_id}}}:user:{user.id}"
    keys = [key async for key in store.scan_iter(f"{tag}:*")]
    assert len(keys) == 4
    wanted = {"everything": "", "window": str(datetime.now(UTC).date()), "holds": ":holds"}[lost]
    await store.delete(*(key for key in keys if wanted in str(key)))
    last = await reserve(stub, provider)
    with pytest.raises(faults.ResourceExhausted):
        await reserve(stub, provider)
    await release(stub, last)
    assert await counters(store, user) == before
    await commit(stub, held, 10, 0)
    assert (await counters(store, user))["requests_committed"] == 2


async def test_a_crash_between_ledger_and_counters_is_repaired(  # noqa: PLR0917 - fixtures
    user: Person,
    stub: "QuotaServiceAsyncStub",
    provider: Provider,
    store: Redis,
    bookings: Bookings,
    superuser: Any,
) -> None:
    committed = await commit(stub, await reserve(stub, provider), 10, 0)
    before = await counters(store, user)
    tag = f"quota:{{{user.tenant_id}}}:user:{user.id}"
    for unit in ("requests", "tokens", "cost"):  # as if the counters had never been told
        await store.hset(f"{tag}:{datetime.now(UTC).date()}", f"{unit}_committed", "0")
    await superuser.execute(
        "UPDATE reservations SET counted = false, settle_time = now() - interval '1 minute' WHERE id = $1",
        committed.id,
    )
    await bookings.sweep()
    assert await counters(store, user) == before


async def test_counters_show_what_the_ledger_shows_also_where_cost_was_rounded(
    user: Person, stub: "QuotaServiceAsyncStub", add_provider: AddProvider, store: Redis, rebuilds: Rebuilds
) -> None:
    provider = await add_provider(input_cost_usd_per_1k="0.000000333333", output_cost_usd_per_1k="0.1")
    for _ in range(5):
        await commit(stub, await reserve(stub, provider, 7), 7, 1)
    before = await counters(store, user)
    await rebuilds.rebuild(user.tenant_id, Owner("user", user.id))
    assert await counters(store, user) == before
    usage = (await user.stub(UsageServiceStub).ListUsage(usage_pb.ListUsageRequest())).usage[0]
    assert usage.cost_usd == "0.00050001167"  # five times 0.000100002333331, each rounded up to 10^-12


async def test_without_valkey_the_limit_holds_and_nothing_is_forgotten(  # noqa: PLR0917 - fixtures
    admin: Person, user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, suite: Suite, store: Redis
) -> None:
    await limit(admin, user, daily_requests=20)
    async with suite.instead("providers", valkey_url=CLOSED, allow_loopback_endpoints=True):
        without = user.stub(QuotaServiceStub)
    # Both servers admit at the same time: one with counters, one with the ledger alone.
    requests = [to_reserve(provider, 10, request_id=str(uuid.uuid4())) for _ in range(60)]
    calls = [
        patiently(lambda at=at, request=request: at.ReserveQuota(request))  # type: ignore[misc]
        for at, request in zip([stub, without] * 30, requests, strict=True)
    ]
    answers = await asyncio.gather(*calls)
    admitted = [answer.reservation for answer in answers if not isinstance(answer, faults.Fault)]
    assert len(admitted) == 20
    await commit(without, admitted[0], 10, 0)
    await release(without, admitted[1])
    await reserve(stub, provider)
    with pytest.raises(faults.ResourceExhausted):
        await reserve(stub, provider)
    now = await counters(store, user)
    assert (now["requests_committed"], now["requests_held"]) == (1, 19)


async def test_a_hold_whose_reservation_could_not_be_stored_goes_back(
    user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, superuser: Any, store: Redis
) -> None:
    await superuser.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no room'; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON reservations FOR EACH ROW"
        " WHEN (NEW.operation = 'refused') EXECUTE FUNCTION refuse()"
    )
    request = to_reserve(provider)
    request.operation = "refused"
    try:
        for request.request_id in ("", str(uuid.uuid4())):
            with pytest.raises(faults.Fault):
                await stub.ReserveQuota(request)
            await eventually(lambda: counters(store, user), lambda now: now["requests_held"] == 0)
    finally:
        await superuser.execute("DROP FUNCTION refuse() CASCADE")


async def test_a_sweep_goes_on_without_valkey(
    user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, runtime: Runtime, superuser: Any
) -> None:
    held = await reserve(stub, provider)
    await superuser.execute("UPDATE reservations SET expire_time = now() - interval '1 second' WHERE id = $1", held.id)
    await bookings_with(runtime, Redis.from_url(CLOSED)).sweep()
    assert await superuser.fetchval("SELECT state FROM reservations WHERE id = $1", held.id) == "expired"
    assert (await windows(user))["daily_requests"] == ("0", "0")


async def test_a_hold_whose_answer_was_lost_goes_back(
    monkeypatch: pytest.MonkeyPatch, stub: "QuotaServiceAsyncStub", user: Person, provider: Provider, store: Redis
) -> None:
    await reserve(stub, provider)  # the terms are known now
    held = Counters.reserve
    lost: list[Any] = []

    async def lose_once(self: Counters, *given: Any) -> Any:
        outcome = await held(self, *given)
        if not lost:
            lost.append(outcome)
            raise ConnectionError("the answer did not come")
        return outcome

    monkeypatch.setattr(Counters, "reserve", lose_once)
    await reserve(stub, provider)
    assert lost
    await eventually(lambda: counters(store, user), lambda now: now["requests_held"] == 2)
