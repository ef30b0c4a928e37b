"""QuotaService and UsageService over the wire: windows, reservations, races, losses and repairs."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from services.kit import faults
from services.kit.server import Runtime
from services.providers.bookings import Bookings
from services.providers.budgets import Budgets
from services.providers.counters import Counters
from services.providers.owners import Owner
from services.providers.rebuilds import Rebuilds
from tests.providers.conftest import AddProvider
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import quota_service_pb2 as pb, usage_service_pb2 as usage_pb
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_pb2 import Quota, Reservation, ReservationState
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub

CLOSED = "redis://127.0.0.1:1/0"


def principal(person: Person) -> Principal:
    return Principal(kind=PrincipalKind.PRINCIPAL_KIND_USER, id=person.id)


def to_reserve(provider: Provider, tokens: int = 100, **changes: Any) -> pb.ReserveQuotaRequest:
    return pb.ReserveQuotaRequest(provider_id=provider.id, operation="review", estimated_input_tokens=tokens, **changes)


async def limit(admin: Person, person: Person, **limits: Any) -> Quota:
    quota = Quota(owner=principal(person), **limits)
    return (await admin.stub(QuotaServiceStub).SetQuota(pb.SetQuotaRequest(quota=quota))).quota


async def windows(person: Person) -> dict[str, tuple[str, str]]:
    """What is committed and held in each window."""
    answer = await person.stub(QuotaServiceStub).GetQuota(pb.GetQuotaRequest())
    return {window.name: (window.committed, window.held) for window in answer.windows}


async def counters(store: Redis, person: Person) -> dict[str, int]:
    """The day's counters as Valkey has them."""
    day = datetime.now(UTC).date()
    found = await store.hgetall(f"quota:{{{person.tenant_id}}}:user:{person.id}:{day}")
    return {
        name.decode() if isinstance(name, bytes) else name: int(value)
        for name, value in found.items()
        if name != b"epoch"
    }


async def patiently(call: Callable[[], Awaitable[Any]]) -> Any:
    """Do what every client does when the server is busy or out of time: repeat the same request."""
    while True:
        try:
            return await call()
        except (faults.ResourceExhausted, faults.DeadlineExceeded, faults.Unavailable) as fault:
            if fault.reason == "QUOTA_EXCEEDED":
                return fault
            await asyncio.sleep(0.05)


@contextmanager
def served_by(suite: Suite, runtime: Runtime) -> Iterator[None]:
    """Stubs that are made here call this server."""
    usual = suite.runtimes["providers"]
    suite.runtimes["providers"] = runtime
    yield
    suite.runtimes["providers"] = usual


@pytest.fixture
async def provider(add_provider: AddProvider) -> Provider:
    return await add_provider()


@pytest.fixture
def stub(user: Person) -> "QuotaServiceAsyncStub":
    return user.stub(QuotaServiceStub)


def bookings_with(runtime: Runtime, store: Redis) -> Bookings:
    counters = Counters(store)
    rebuilds, budgets = Rebuilds(db=runtime.db, counters=counters), Budgets(db=runtime.db, counters=counters)
    return Bookings(db=runtime.db, counters=counters, rebuilds=rebuilds, budgets=budgets)


@pytest.fixture
def bookings(runtime: Runtime, store: Redis) -> Bookings:
    return bookings_with(runtime, store)


@pytest.fixture
def rebuilds(runtime: Runtime, store: Redis) -> Rebuilds:
    return Rebuilds(db=runtime.db, counters=Counters(store))


async def reserve(stub: "QuotaServiceAsyncStub", provider: Provider, tokens: int = 100, **changes: Any) -> Reservation:
    return (await stub.ReserveQuota(to_reserve(provider, tokens, **changes))).reservation


async def commit(stub: "QuotaServiceAsyncStub", reservation: Reservation, *tokens: int) -> Reservation:
    request = pb.CommitReservationRequest(
        reservation_id=reservation.id, input_tokens=tokens[0], output_tokens=tokens[1]
    )
    return (await stub.CommitReservation(request)).reservation


async def release(stub: "QuotaServiceAsyncStub", reservation: Reservation) -> Reservation:
    request = pb.ReleaseReservationRequest(reservation_id=reservation.id)
    return (await stub.ReleaseReservation(request)).reservation


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


async def test_a_limit_of_nothing_forbids(
    admin: Person, user: Person, stub: "QuotaServiceAsyncStub", provider: Provider
) -> None:
    await limit(admin, user, daily_requests=0)
    with pytest.raises(faults.ResourceExhausted):
        await reserve(stub, provider)


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
    answers = await asyncio.gather(*(work(number) for number in range(500)))
    done.set()
    await watcher
    refused = [answer for answer in answers if isinstance(answer, faults.Fault)]
    assert {fault.reason for fault in refused} == {"QUOTA_EXCEEDED"}
    assert len(answers) - len(refused) == 100
    assert max(seen) <= 100
    committed, held = (await windows(user))["daily_requests"]
    assert int(committed) + int(held) == 100
    async with asyncio.timeout(30):  # what was given up by a call without time left is put right beside it
        while (now := await counters(store, user)) and now["requests_held"] != int(held):
            await asyncio.sleep(0.05)
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
    broken = await suite.launch("providers", valkey_url=CLOSED, allow_loopback_endpoints=True)
    with served_by(suite, broken):
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
    await broken.stop()


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
    for request.request_id in ("", str(uuid.uuid4())):
        with pytest.raises(faults.Fault):
            await stub.ReserveQuota(request)
        async with asyncio.timeout(10):
            while (await counters(store, user))["requests_held"]:
                await asyncio.sleep(0.02)
    await superuser.execute("DROP FUNCTION refuse() CASCADE")


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


async def test_a_sweep_goes_on_without_valkey(
    user: Person, stub: "QuotaServiceAsyncStub", provider: Provider, runtime: Runtime, superuser: Any
) -> None:
    held = await reserve(stub, provider)
    await superuser.execute("UPDATE reservations SET expire_time = now() - interval '1 second' WHERE id = $1", held.id)
    await bookings_with(runtime, Redis.from_url(CLOSED)).sweep()
    assert await superuser.fetchval("SELECT state FROM reservations WHERE id = $1", held.id) == "expired"
    assert (await windows(user))["daily_requests"] == ("0", "0")


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
