"""Reservations: the truth of what is held. The row, its wire form, its queries, its transitions and its faults.

held -> committed | released | expired; expired -> committed (a late commit is charged) | released.
Nothing here talks to Valkey: `admissions` does, before and after these transactions.
"""

from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
    update,
)

from services.kit import outbox
from services.kit.db import Constraints, Row, Statement, Transaction, param, params
from services.kit.faults import Aborted, FailedPrecondition, NotFound
from services.providers import alerts, ledgers, money, owners, quotas
from services.providers.owners import Owner
from services.providers.plans import Plan
from services.providers.words import RESERVATION_STATES
from triptych.providers.v1 import quota_pb2, quota_service_pb2 as pb

RESERVE, COMMIT, RELEASE = (f"providers.quota.{verb}" for verb in ("reserve", "commit", "release"))
"""Actions of the audit log: the same, whichever RPC does it."""

table = Table(
    "reservations",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("hold_id", Uuid, nullable=False),
    Column("invocation_id", Uuid),
    Column("provider_id", Uuid, nullable=False),
    Column("price_version_id", Uuid, nullable=False),
    Column("input_cost_usd_per_1k", Numeric(20, 12), nullable=False),
    Column("output_cost_usd_per_1k", Numeric(20, 12), nullable=False),
    Column("operation", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("estimated_tokens", BigInteger, nullable=False),
    Column("estimated_cost_usd", Numeric(20, 12), nullable=False),
    Column("estimated_cost_nano", BigInteger, nullable=False),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cost_usd", Numeric(20, 12)),
    Column("cost_nano", BigInteger),
    Column("counted", Boolean, nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("settle_time", DateTime(timezone=True)),
)
_insert = Statement(
    insert(table)
    .values(
        **params(
            "tenant_id owner_kind owner_id hold_id invocation_id provider_id price_version_id input_cost_usd_per_1k"
            " output_cost_usd_per_1k operation day estimated_tokens estimated_cost_usd estimated_cost_nano expire_time"
        ),
        state="held",
        counted=False,
    )
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
_of_hold = Statement(select(table.c.state).where(table.c.hold_id == param("hold_id")))
_commit = Statement(
    update(table)
    .where(table.c.id == param("reservation_id"))
    .values(
        **params("input_tokens output_tokens cost_usd cost_nano"), state="committed", settle_time=func.clock_timestamp()
    )
    .returning(*table.c)
)
_release = Statement(
    update(table)
    .where(table.c.id == param("reservation_id"))
    .values(state="released", settle_time=func.clock_timestamp())
    .returning(*table.c)
)


class ReservationNotFound(NotFound):
    """No such reservation of the caller."""

    def __init__(self, reservation_id: str) -> None:
        super().__init__("there is no such reservation", reservation_id=reservation_id)


class ReservationSettled(FailedPrecondition):
    """It was settled another way already."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the reservation was {state} already, or with other numbers", state=state)


class InvocationRunning(Aborted):
    """The call with this request_id is still under way."""

    def __init__(self) -> None:
        super().__init__("the call with this request_id is still under way; repeat it later")


CONSTRAINTS: Constraints = {"reservations_invocation": InvocationRunning}


async def store(tx: Transaction, plan: Plan) -> quota_pb2.Reservation:
    """Store a reservation that was admitted."""
    provider, hold = plan.provider, plan.hold
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        **plan.owner.columns,
        hold_id=hold.id,
        invocation_id=plan.demand.invocation_id,
        provider_id=provider["id"],
        price_version_id=provider["price_version_id"],
        input_cost_usd_per_1k=plan.prices[0],
        output_cost_usd_per_1k=plan.prices[1],
        operation=plan.demand.operation,
        day=hold.day,
        estimated_tokens=hold.want.tokens,
        estimated_cost_usd=plan.cost,
        estimated_cost_nano=hold.want.cost,
        expire_time=hold.expire_time,
    )
    return await _recorded(tx, row, RESERVE)


async def answer(tx: Transaction, request: pb.ReserveQuotaRequest, *, plan: Plan) -> pb.ReserveQuotaResponse:  # noqa: ARG001 - as requests.once calls it
    """Store a reservation and answer the request for it."""
    return pb.ReserveQuotaResponse(reservation=await store(tx, plan))


async def commit(
    tx: Transaction, request: pb.CommitReservationRequest, *, owner: Owner
) -> pb.CommitReservationResponse:
    """Charge what was used: reservation, ledger, roll-up and alerts in one transaction."""
    row = await _lock_own(tx, request.reservation_id, owner)
    cost = money.cost(
        request.input_tokens, request.output_tokens, row["input_cost_usd_per_1k"], row["output_cost_usd_per_1k"]
    )
    if row["state"] in ("held", "expired"):
        row = await _charge(tx, request, cost)
    elif row["state"] != "committed" or not _same(row, request):
        raise ReservationSettled(row["state"])
    return pb.CommitReservationResponse(reservation=await _recorded(tx, row, COMMIT, owner))


async def release(
    tx: Transaction, request: pb.ReleaseReservationRequest, *, owner: Owner
) -> pb.ReleaseReservationResponse:
    """Give the hold back; one that was given back stays so."""
    row = await _lock_own(tx, request.reservation_id, owner)
    if row["state"] == "committed":
        raise ReservationSettled(row["state"])
    if row["state"] != "released":
        row = await tx.only(_release, reservation_id=row["id"])
    return pb.ReleaseReservationResponse(reservation=await _recorded(tx, row, RELEASE, owner))


async def get(tx: Transaction, reservation_id: str) -> Row:
    """Give the row of a reservation that is known to be there."""
    return await tx.only(_get, id=reservation_id)


async def state_of_hold(tx: Transaction, hold_id: str) -> str | None:
    """Give the state of the reservation that a hold belongs to, if there is one."""
    row = await tx.one(_of_hold, hold_id=hold_id)
    return None if row is None else row["state"]


async def _recorded(tx: Transaction, row: Row, action: str, owner: Owner | None = None) -> quota_pb2.Reservation:
    """Tell the audit log; work that goes on after its call still acts for the owner."""
    reservation = wire(row)
    actor = (owner.kind, owner.id) if owner is not None else None
    await outbox.record(tx, f"reservation:{reservation.id}", reservation, action=action, actor=actor)
    return reservation


async def _charge(tx: Transaction, request: pb.CommitReservationRequest, cost: Decimal) -> Row:
    row = await tx.only(
        _commit,
        reservation_id=request.reservation_id,
        input_tokens=request.input_tokens,
        output_tokens=request.output_tokens,
        cost_usd=cost,
        cost_nano=money.nano(cost),
    )
    owner = owners.in_row(row)
    quota = await quotas.lock(tx, owner)  # two commits at once see each other, so a threshold is crossed by one of them
    await ledgers.record(tx, row)
    used = await ledgers.sums(tx, owner, row["day"])
    await alerts.raise_crossed(tx, owner, quotas.limits(quota), used, row["day"])
    return row


async def _lock_own(tx: Transaction, reservation_id: str, owner: Owner) -> Row:
    row = await tx.one(_lock, id=reservation_id)
    if row is None or owners.in_row(row) != owner:
        raise ReservationNotFound(reservation_id)
    return row


def _same(row: Row, request: pb.CommitReservationRequest) -> bool:
    return (row["input_tokens"], row["output_tokens"]) == (request.input_tokens, request.output_tokens)


def wire(row: Row) -> quota_pb2.Reservation:
    """Give the wire form."""
    return quota_pb2.Reservation(
        id=str(row["id"]),
        owner=owners.wire(owners.in_row(row)),
        provider_id=str(row["provider_id"]),
        operation=row["operation"],
        state=RESERVATION_STATES.number(row["state"]),
        estimated_tokens=row["estimated_tokens"],
        estimated_cost_usd=money.text(row["estimated_cost_usd"]),
        input_tokens=row["input_tokens"] or 0,
        output_tokens=row["output_tokens"] or 0,
        cost_usd="" if row["cost_usd"] is None else money.text(row["cost_usd"]),
        expire_time=row["expire_time"],
        create_time=row["create_time"],
        settle_time=row["settle_time"],
    )
