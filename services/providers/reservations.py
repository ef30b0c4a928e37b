"""Reservations: the truth of what is held. The row, its wire form, its queries, its transitions and its faults.

held -> committed | released | expired; expired -> committed (a late commit is charged) | released.
Nothing here talks to Valkey: `admissions` does, before and after these transactions.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
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

from services.kit import faults, outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import FailedPrecondition, NotFound, ResourceExhausted
from services.providers import alerts, ledgers, money, owners, providers, quotas, windows
from services.providers.counters import Account, Hold
from services.providers.windows import Limits, Want
from triptych.providers.v1 import quota_pb2, quota_service_pb2 as pb

USUAL_HOLD, SHORTEST_HOLD = 120, 10
"""Seconds."""

table = Table(
    "reservations",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("hold_id", Uuid, nullable=False),
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
            "tenant_id owner_kind owner_id hold_id provider_id price_version_id input_cost_usd_per_1k"
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


class QuotaExceeded(ResourceExhausted):
    """The hold does not fit in a window."""

    def __init__(self, exceeded: Sequence[str], limits: Limits, account: Account) -> None:
        texts = {name: windows.text(name, limits[name] or 0) for name in exceeded}
        super().__init__(
            f"the quota is used up: {', '.join(exceeded)}",
            violations={name: f"the limit is {limit}" for name, limit in texts.items()},
            retry_after=max(windows.reset_time(name, account.day) for name in exceeded) - account.now,
            window=exceeded[0],
            limit=texts[exceeded[0]],
        )


class EpochPassed(Exception):
    """The counters under which a hold was admitted are not those that count any more: begin again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A reservation that is about to be made: for whom, at which price, against which limits."""

    provider: Row
    account: Account
    limits: Limits
    hold: Hold
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the counters must be told after a commit or release."""

    account: Account
    reservation_id: uuid.UUID
    hold_id: str
    used: Want | None
    """None after a release."""
    counted: bool


async def plan(tx: Transaction, request: pb.ReserveQuotaRequest) -> Plan:
    """Read what a reservation depends on."""
    provider = await providers.row(tx, request.provider_id)
    if not provider["active"]:
        raise providers.ProviderInactive(request.provider_id)
    row = await quotas.see(tx, owners.caller())
    account = account_of(tx, row)
    prices = provider["input_cost_usd_per_1k"], provider["output_cost_usd_per_1k"]
    cost = money.cost(request.estimated_input_tokens, request.estimated_output_tokens, *prices)
    tokens = request.estimated_input_tokens + request.estimated_output_tokens
    hold = Hold(
        id=_hold_id(account, request.request_id),
        want=Want(tokens=tokens, cost=money.nano(cost)),
        day=account.day,
        expire_time=account.now + timedelta(seconds=_seconds(request)),
    )
    return Plan(provider, account, quotas.limits(row), hold, cost)


async def insert_held(tx: Transaction, request: pb.ReserveQuotaRequest, *, plan: Plan) -> pb.ReserveQuotaResponse:
    """Store a reservation that the counters admitted, unless they were rebuilt since."""
    if await quotas.share(tx, plan.account.owner) != plan.account.epoch:
        raise EpochPassed
    return await store(tx, request, plan)


async def commit(tx: Transaction, request: pb.CommitReservationRequest) -> pb.CommitReservationResponse:
    """Charge what was used: reservation, ledger, roll-up and alerts in one transaction."""
    row = await _lock_own(tx, request.reservation_id)
    cost = money.cost(
        request.input_tokens, request.output_tokens, row["input_cost_usd_per_1k"], row["output_cost_usd_per_1k"]
    )
    if row["state"] in ("held", "expired"):
        row = await _charge(tx, request, cost)
    elif row["state"] != "committed" or not _same(row, request):
        raise ReservationSettled(row["state"])
    reservation = wire(row)
    await outbox.record(tx, f"reservation:{reservation.id}", reservation)
    return pb.CommitReservationResponse(reservation=reservation)


async def release(tx: Transaction, request: pb.ReleaseReservationRequest) -> pb.ReleaseReservationResponse:
    """Give the hold back; one that was given back stays so."""
    row = await _lock_own(tx, request.reservation_id)
    if row["state"] == "committed":
        raise ReservationSettled(row["state"])
    if row["state"] != "released":
        row = await tx.only(_release, reservation_id=row["id"])
    reservation = wire(row)
    await outbox.record(tx, f"reservation:{reservation.id}", reservation)
    return pb.ReleaseReservationResponse(reservation=reservation)


async def settlement(tx: Transaction, reservation_id: str) -> Settlement:
    """Give what the counters must be told of a settled reservation; the epoch holds until the transaction ends."""
    row = await tx.only(_get, id=reservation_id)
    owner = owners.in_row(row)
    epoch = await quotas.share(tx, owner)
    account = Account(tx.tenant_id, owner, epoch, await quotas.now(tx))
    committed = row["state"] == "committed"
    used = Want(row["input_tokens"] + row["output_tokens"], row["cost_nano"]) if committed else None
    return Settlement(account, row["id"], str(row["hold_id"]), used, row["counted"])


async def state_of_hold(tx: Transaction, hold_id: str) -> str | None:
    """Give the state of the reservation that a hold belongs to, if there is one."""
    row = await tx.one(_of_hold, hold_id=hold_id)
    return None if row is None else row["state"]


async def store(tx: Transaction, request: pb.ReserveQuotaRequest, plan: Plan) -> pb.ReserveQuotaResponse:
    """Store a reservation that was admitted."""
    provider = plan.provider
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        **plan.account.owner.columns,
        hold_id=plan.hold.id,
        provider_id=provider["id"],
        price_version_id=provider["price_version_id"],
        input_cost_usd_per_1k=provider["input_cost_usd_per_1k"],
        output_cost_usd_per_1k=provider["output_cost_usd_per_1k"],
        operation=request.operation,
        day=plan.hold.day,
        estimated_tokens=plan.hold.want.tokens,
        estimated_cost_usd=plan.cost,
        estimated_cost_nano=plan.hold.want.cost,
        expire_time=plan.hold.expire_time,
    )
    reservation = wire(row)
    await outbox.record(tx, f"reservation:{reservation.id}", reservation)
    return pb.ReserveQuotaResponse(reservation=reservation)


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


async def _lock_own(tx: Transaction, reservation_id: str) -> Row:
    row = await tx.one(_lock, id=reservation_id)
    if row is None or owners.in_row(row) != owners.caller():
        raise ReservationNotFound(reservation_id)
    return row


def account_of(tx: Transaction, row: Row) -> Account:
    """Give the account of a quota row."""
    return Account(tx.tenant_id, owners.in_row(row), row["epoch"], row["now"])


def _hold_id(account: Account, request_id: str) -> str:
    """The same request of a day holds once, however often and at how many servers it arrives at the same time."""
    if not request_id:
        return str(uuid.uuid4())
    name = f"{account.owner}|{request_id.lower()}|{account.day}"
    return str(uuid.uuid5(uuid.UUID(account.tenant_id), name))


def _seconds(request: pb.ReserveQuotaRequest) -> int:
    seconds = request.hold_seconds or USUAL_HOLD
    if seconds < SHORTEST_HOLD:
        problem = f"must be 0 or at least {SHORTEST_HOLD}"
        raise faults.RequestInvalid(
            f"hold_seconds: {problem}", violations={"hold_seconds": problem}, fields="hold_seconds"
        )
    return seconds


def _same(row: Row, request: pb.CommitReservationRequest) -> bool:
    return (row["input_tokens"], row["output_tokens"]) == (request.input_tokens, request.output_tokens)


def wire(row: Row) -> quota_pb2.Reservation:
    """Give the wire form."""
    return quota_pb2.Reservation(
        id=str(row["id"]),
        owner=owners.wire(owners.in_row(row)),
        provider_id=str(row["provider_id"]),
        operation=row["operation"],
        state=quota_pb2.ReservationState.Value(f"RESERVATION_STATE_{row['state'].upper()}"),
        estimated_tokens=row["estimated_tokens"],
        estimated_cost_usd=money.text(row["estimated_cost_usd"]),
        input_tokens=row["input_tokens"] or 0,
        output_tokens=row["output_tokens"] or 0,
        cost_usd="" if row["cost_usd"] is None else money.text(row["cost_usd"]),
        expire_time=row["expire_time"],
        create_time=row["create_time"],
        settle_time=row["settle_time"],
    )
