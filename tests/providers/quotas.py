"""Reserving and settling as tests do it, and what quotas and counters show then."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from services.kit import faults
from services.kit.server import Runtime
from services.providers.bookings import Bookings
from services.providers.budgets import Budgets
from services.providers.counters import Counters
from services.providers.rebuilds import Rebuilds
from tests.patience import eventually
from tests.suite import Person
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.providers.v1 import quota_service_pb2 as pb
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_pb2 import Quota, Reservation
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub


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

    async def attempt() -> tuple[Any] | None:
        try:
            return (await call(),)
        except (faults.ResourceExhausted, faults.DeadlineExceeded, faults.Unavailable) as fault:
            return (fault,) if fault.reason == "QUOTA_EXCEEDED" else None

    return (await eventually(attempt))[0]


def bookings_with(runtime: Runtime, store: Redis) -> Bookings:
    counters = Counters(store)
    rebuilds, budgets = Rebuilds(db=runtime.db, counters=counters), Budgets(db=runtime.db, counters=counters)
    return Bookings(db=runtime.db, counters=counters, rebuilds=rebuilds, budgets=budgets)


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
