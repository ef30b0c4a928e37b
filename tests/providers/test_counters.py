"""The scripts on a real Valkey, at times of our choosing."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from services.kit.server import Runtime
from services.providers.attempts import MOST, Attempts, KeyAttempts
from services.providers.counters import PLACES, Account, Accounts, Counters, Hold
from services.providers.owners import Owner, tenant
from services.providers.windows import NAMES, Want

EVENING = datetime(2036, 11, 29, 23, 0, tzinfo=UTC)
UNLIMITED: dict[str, int | None] = dict.fromkeys(PLACES)
LIMITS = UNLIMITED | {"daily_requests": 3, "monthly_tokens": 1000}
NOTHING = dict.fromkeys(NAMES, 0)


@pytest.fixture
async def accounts(counters: Counters) -> Accounts:
    tenant_id = str(uuid.uuid4())
    own = Account(tenant_id, Owner("user", str(uuid.uuid4())), 7, EVENING)
    whole = Account(tenant_id, tenant(tenant_id), 4, EVENING)
    for account in (own, whole):
        await counters.load(account, NOTHING, [])
    return Accounts(own, whole)


def at(accounts: Accounts, *, now: datetime | None = None, own: int = 7, whole: int = 4) -> Accounts:
    """The same accounts at another time, or of other epochs."""
    return Accounts(
        replace(accounts.own, epoch=own, now=now or accounts.own.now),
        replace(accounts.tenant, epoch=whole, now=now or accounts.own.now),
    )


def hold(accounts: Accounts, *, tokens: int = 10, cost: int = 5, seconds: int = 60) -> Hold:
    own = accounts.own
    return Hold(str(uuid.uuid4()), Want(tokens, cost), own.day, own.now + timedelta(seconds=seconds))


async def counted(store: Redis, account: Account, window: str, field: str) -> int:
    key = f"quota:{{{account.tenant_id}}}:{account.owner}:{window}"
    return int(await store.hget(key, field) or 0)


async def test_the_same_hold_is_held_once(counters: Counters, accounts: Accounts, store: Redis) -> None:
    one = hold(accounts)
    for _ in range(2):
        assert not (await counters.reserve(accounts, one, LIMITS)).exceeded
    assert await counted(store, accounts.own, "2036-11-29", "requests_held") == 1
    assert await counted(store, accounts.own, "2036-11", "tokens_held") == 10


async def test_all_windows_that_are_too_small_are_named(counters: Counters, accounts: Accounts) -> None:
    outcome = await counters.reserve(accounts, hold(accounts, tokens=1001), LIMITS | {"daily_requests": 0})
    assert outcome.exceeded == ("daily_requests", "monthly_tokens")


async def test_holds_end_in_time_and_make_room(counters: Counters, accounts: Accounts, store: Redis) -> None:
    for _ in range(3):
        await counters.reserve(accounts, hold(accounts), LIMITS)
    assert (await counters.reserve(accounts, hold(accounts), LIMITS)).exceeded
    later = at(accounts, now=EVENING + timedelta(seconds=60))
    assert not (await counters.reserve(later, hold(later), LIMITS)).exceeded
    assert await counted(store, accounts.own, "2036-11-29", "requests_held") == 1
    await counters.expire(replace(accounts.own, now=EVENING + timedelta(seconds=600)))
    assert await counted(store, accounts.own, "2036-11-29", "requests_held") == 0


async def test_counters_of_another_epoch_admit_nothing(counters: Counters, accounts: Accounts) -> None:
    for other in (at(accounts, own=6), at(accounts, own=8)):
        assert (await counters.reserve(other, hold(accounts), LIMITS)).stale == [other.own]
    for other in (at(accounts, whole=3), at(accounts, whole=5)):
        assert (await counters.reserve(other, hold(accounts), LIMITS)).stale == [other.tenant]


async def test_older_counters_do_not_take_the_place_of_newer_ones(
    counters: Counters, accounts: Accounts, store: Redis
) -> None:
    await counters.load(replace(accounts.own, epoch=6), NOTHING | {"daily_requests": 99}, [])
    assert await counted(store, accounts.own, "2036-11-29", "requests_committed") == 0


async def test_a_commit_without_a_hold_adds_nothing_and_asks_for_a_rebuild(
    counters: Counters, accounts: Accounts, store: Redis
) -> None:
    one = hold(accounts, tokens=0, cost=0)
    await counters.reserve(accounts, one, LIMITS)
    assert await counters.commit(accounts, one.id, Want(0, 0)) == []
    assert await counters.commit(accounts, one.id, Want(0, 0)) == list(accounts)
    assert await counted(store, accounts.own, "2036-11-29", "requests_committed") == 1
    assert await counters.commit(at(accounts, own=6, whole=3), one.id, Want(0, 0)) == []  # rebuilt since: it is counted


async def test_the_next_day_begins_with_a_rebuild_and_counts_yesterdays_hold_in_the_month_alone(
    counters: Counters, accounts: Accounts, store: Redis
) -> None:
    one = hold(accounts)
    await counters.reserve(accounts, one, LIMITS)
    morning = at(accounts, now=EVENING + timedelta(hours=2))
    assert (await counters.reserve(morning, hold(morning), LIMITS)).stale == list(morning)
    morning = at(morning, own=8, whole=5)
    for account in morning:
        await counters.load(account, NOTHING, [one])
    assert await counted(store, accounts.own, "2036-11-30", "requests_held") == 0
    assert await counted(store, accounts.own, "2036-11", "requests_held") == 1
    await counters.commit(morning, one.id, Want(7, 3))
    assert await counted(store, accounts.own, "2036-11-30", "requests_committed") == 0
    assert await counted(store, accounts.own, "2036-11", "tokens_committed") == 7


async def test_every_key_goes_with_its_window(counters: Counters, accounts: Accounts, store: Redis) -> None:
    await counters.reserve(accounts, hold(accounts), LIMITS)
    tag = f"quota:{{{accounts.own.tenant_id}}}:{accounts.own.owner}"
    ends = {key.decode().removeprefix(tag): await store.pexpiretime(key) async for key in store.scan_iter(f"{tag}*")}
    day, month = datetime(2036, 12, 1, tzinfo=UTC), datetime(2036, 12, 2, tzinfo=UTC)
    assert ends.pop(":2036-11-29") == day.timestamp() * 1000
    assert set(ends.values()) == {month.timestamp() * 1000}


async def test_a_script_costs_the_same_with_a_thousand_holds(counters: Counters, accounts: Accounts) -> None:
    for _ in range(1000):
        await counters.reserve(accounts, hold(accounts), UNLIMITED)
    later = at(accounts, now=EVENING + timedelta(hours=1))
    used = LIMITS | {"daily_requests": 950}
    assert (await counters.reserve(later, hold(later), used)).exceeded == ()  # fifty holds end in one call, not all


async def test_the_tenants_windows_count_what_all_its_owners_hold(
    counters: Counters, accounts: Accounts, store: Redis
) -> None:
    limits = UNLIMITED | {"tenant_daily_requests": 2}
    other = Accounts(replace(accounts.own, owner=Owner("agent", str(uuid.uuid4()))), accounts.tenant)
    await counters.load(other.own, NOTHING, [])
    first = hold(accounts)
    for each, one in ((accounts, first), (other, hold(other))):
        assert (await counters.reserve(each, one, limits)).exceeded == ()
    for each in (accounts, other):
        assert (await counters.reserve(each, hold(each), limits)).exceeded == ("tenant_daily_requests",)
    assert await counted(store, accounts.own, "2036-11-29", "requests_held") == 1  # nothing of what was refused
    assert await counted(store, accounts.tenant, "2036-11-29", "requests_held") == 2
    await counters.commit(accounts, first.id, Want(1, 2))
    standing = await counters.read(accounts.tenant)
    assert standing is not None
    assert (standing.committed["monthly_cost_usd"], standing.held["daily_requests"]) == (2, 1)


async def test_as_many_holds_at_once_as_the_owner_may_have(counters: Counters, accounts: Accounts) -> None:
    limits = UNLIMITED | {"concurrent_requests": 2}
    held = [hold(accounts) for _ in range(2)]
    for one in held:
        assert (await counters.reserve(accounts, one, limits)).exceeded == ()
    assert (await counters.reserve(accounts, hold(accounts), limits)).exceeded == ("concurrent_requests",)
    await counters.release(accounts, held[0].id)
    assert (await counters.reserve(accounts, hold(accounts), limits)).exceeded == ()


async def test_a_load_that_is_sent_again_loses_nothing_that_was_held_in_between(
    counters: Counters, accounts: Accounts, store: Redis
) -> None:
    await counters.reserve(accounts, hold(accounts), LIMITS)
    await counters.load(accounts.own, NOTHING, [])  # as a client does that lost the answer
    assert await counted(store, accounts.own, "2036-11-29", "requests_held") == 1


async def test_a_hold_that_one_account_lost_is_held_there_again_and_not_twice_in_the_other(
    counters: Counters, accounts: Accounts, store: Redis
) -> None:
    one = hold(accounts)
    await counters.reserve(accounts, one, LIMITS)
    newer = at(accounts, whole=5)
    await counters.load(newer.tenant, NOTHING, [])
    assert (await counters.reserve(newer, one, LIMITS)).exceeded == ()
    for account in newer:
        assert await counted(store, account, "2036-11-29", "requests_held") == 1


async def test_what_was_not_reserved_is_charged_in_both(counters: Counters, accounts: Accounts) -> None:
    assert await counters.charge(accounts, 3, Want(10, 20)) == []
    for account in accounts:
        standing = await counters.read(account)
        assert standing is not None
        assert list(standing.committed.values()) == [3, 3, 10, 10, 20, 20]
    stale = at(accounts, whole=9)
    assert await counters.charge(stale, 3, Want(10, 20)) == [stale.tenant]


async def test_an_hour_of_attempts_is_any_hour(runtime: Runtime, store: Redis) -> None:
    attempts, tenant, who = Attempts(valkey=store, db=runtime.db), str(uuid.uuid4()), Owner("user", str(uuid.uuid4()))
    for _ in range(MOST):
        await attempts.count(tenant, who)
    name = f"key_attempts:{{{tenant}:{who}}}"
    made: Any = await store.zrange(name, 0, -1, withscores=True)
    for member, moment in made[:4]:  # an hour later than these four, half an hour later than the others
        await store.zadd(name, {member: moment - 3_600_000})
    for member, moment in made[4:]:
        await store.zadd(name, {member: moment - 1_800_000})
    for _ in range(4):
        await attempts.count(tenant, who)
    with pytest.raises(KeyAttempts) as caught:
        await attempts.count(tenant, who)
    assert caught.value.retry_after is not None
    assert timedelta(0) < caught.value.retry_after <= timedelta(minutes=30)
    assert await store.pttl(name) > 0


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
