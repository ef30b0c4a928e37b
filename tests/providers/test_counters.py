"""The scripts on a real Valkey, at times of our choosing."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from services.kit.server import Runtime
from services.providers.attempts import MOST, Attempts, KeyAttempts
from services.providers.counters import Account, Counters, Hold
from services.providers.owners import Owner
from services.providers.windows import NAMES, Want

EVENING = datetime(2036, 11, 29, 23, 0, tzinfo=UTC)
LIMITS: dict[str, int | None] = dict.fromkeys(NAMES) | {"daily_requests": 3, "monthly_tokens": 1000}
NOTHING = dict.fromkeys(NAMES, 0)


@pytest.fixture
async def account(counters: Counters) -> Account:
    made = Account(str(uuid.uuid4()), Owner("user", str(uuid.uuid4())), 7, EVENING)
    await counters.load(made, NOTHING, [])
    return made


@pytest.fixture
def counters(store: Redis) -> Counters:
    return Counters(store)


def hold(account: Account, *, tokens: int = 10, cost: int = 5, seconds: int = 60) -> Hold:
    return Hold(str(uuid.uuid4()), Want(tokens, cost), account.day, account.now + timedelta(seconds=seconds))


async def counted(store: Redis, account: Account, window: str, field: str) -> int:
    key = f"quota:{{{account.tenant_id}:{account.owner}}}:{window}"
    return int(await store.hget(key, field) or 0)


async def test_the_same_hold_is_held_once(counters: Counters, account: Account, store: Redis) -> None:
    one = hold(account)
    for _ in range(2):
        assert not (await counters.reserve(account, one, LIMITS)).exceeded
    assert await counted(store, account, "2036-11-29", "requests_held") == 1
    assert await counted(store, account, "2036-11", "tokens_held") == 10


async def test_all_windows_that_are_too_small_are_named(counters: Counters, account: Account) -> None:
    outcome = await counters.reserve(account, hold(account, tokens=1001), LIMITS | {"daily_requests": 0})
    assert outcome.exceeded == ("daily_requests", "monthly_tokens")


async def test_holds_end_in_time_and_make_room(counters: Counters, account: Account, store: Redis) -> None:
    for _ in range(3):
        await counters.reserve(account, hold(account), LIMITS)
    assert (await counters.reserve(account, hold(account), LIMITS)).exceeded
    later = replace(account, now=account.now + timedelta(seconds=60))
    assert not (await counters.reserve(later, hold(later), LIMITS)).exceeded
    assert await counted(store, account, "2036-11-29", "requests_held") == 1
    await counters.expire(replace(account, now=account.now + timedelta(seconds=600)))
    assert await counted(store, account, "2036-11-29", "requests_held") == 0


async def test_counters_of_another_epoch_admit_nothing(counters: Counters, account: Account) -> None:
    for epoch in (6, 8):
        assert (await counters.reserve(replace(account, epoch=epoch), hold(account), LIMITS)).stale


async def test_older_counters_do_not_take_the_place_of_newer_ones(
    counters: Counters, account: Account, store: Redis
) -> None:
    await counters.load(replace(account, epoch=6), NOTHING | {"daily_requests": 99}, [])
    assert await counted(store, account, "2036-11-29", "requests_committed") == 0


async def test_a_commit_without_a_hold_adds_nothing_and_asks_for_a_rebuild(
    counters: Counters, account: Account, store: Redis
) -> None:
    one = hold(account, tokens=0, cost=0)
    await counters.reserve(account, one, LIMITS)
    assert await counters.commit(account, one.id, Want(0, 0))
    assert not await counters.commit(account, one.id, Want(0, 0))
    assert await counted(store, account, "2036-11-29", "requests_committed") == 1
    assert await counters.commit(replace(account, epoch=6), one.id, Want(0, 0))  # rebuilt since: it is counted


async def test_the_next_day_begins_with_a_rebuild_and_counts_yesterdays_hold_in_the_month_alone(
    counters: Counters, account: Account, store: Redis
) -> None:
    one = hold(account)
    await counters.reserve(account, one, LIMITS)
    morning = replace(account, now=EVENING + timedelta(hours=2))
    assert (await counters.reserve(morning, hold(morning), LIMITS)).stale
    morning = replace(morning, epoch=8)
    await counters.load(morning, NOTHING, [one])
    assert await counted(store, account, "2036-11-30", "requests_held") == 0
    assert await counted(store, account, "2036-11", "requests_held") == 1
    await counters.commit(morning, one.id, Want(7, 3))
    assert await counted(store, account, "2036-11-30", "requests_committed") == 0
    assert await counted(store, account, "2036-11", "tokens_committed") == 7


async def test_every_key_goes_with_its_window(counters: Counters, account: Account, store: Redis) -> None:
    await counters.reserve(account, hold(account), LIMITS)
    tag = f"quota:{{{account.tenant_id}:{account.owner}}}"
    ends = {key.decode().removeprefix(tag): await store.pexpiretime(key) async for key in store.scan_iter(f"{tag}*")}
    day, month = datetime(2036, 12, 1, tzinfo=UTC), datetime(2036, 12, 2, tzinfo=UTC)
    assert ends.pop(":2036-11-29") == day.timestamp() * 1000
    assert set(ends.values()) == {month.timestamp() * 1000}


async def test_a_script_costs_the_same_with_a_thousand_holds(counters: Counters, account: Account) -> None:
    for _ in range(1000):
        await counters.reserve(account, hold(account), dict.fromkeys(NAMES))
    later = replace(account, now=account.now + timedelta(hours=1))
    used = LIMITS | {"daily_requests": 950}
    assert (await counters.reserve(later, hold(later), used)).exceeded == ()  # fifty holds end in one call, not all


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:1/0"])
async def test_ten_attempts_are_counted_with_valkey_and_without(runtime: Runtime, store: Redis, url: str) -> None:
    client = Redis.from_url(url) if url else store
    attempts, tenant, who = Attempts(valkey=client, db=runtime.db), str(uuid.uuid4()), Owner("agent", str(uuid.uuid4()))
    for _ in range(MOST):
        await attempts.count(tenant, who)
    with pytest.raises(KeyAttempts) as caught:
        await attempts.count(tenant, who)
    assert caught.value.retry_after is not None
    assert timedelta(minutes=59) < caught.value.retry_after <= timedelta(hours=1)
    await attempts.count(tenant, Owner("agent", str(uuid.uuid4())))
    if url:
        await client.aclose()
