"""Quotas: what an owner may use. The row, its wire form, its queries, the defaults of the roles, and its faults.

A row exists once an owner reserved or was given a quota; it is also what serialises those who settle at the same time.
"""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from services.kit import calls, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import NotFound
from services.providers import alerts, ledgers, money, owners, windows
from services.providers.owners import Owner
from services.providers.windows import CONCURRENT, NAMES, Limits
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import quota_pb2, quota_service_pb2 as pb

Stored = dict[str, int | Decimal | None]
"""Limits as columns have them: cost in dollars."""


LIMITS = (*NAMES, CONCURRENT)


def _default(daily: int, monthly: int, daily_cost: int, monthly_cost: int, concurrent: int) -> Stored:
    return {
        **dict.fromkeys(LIMITS),
        "daily_requests": daily,
        "monthly_requests": monthly,
        "daily_cost_usd": Decimal(daily_cost),
        "monthly_cost_usd": Decimal(monthly_cost),
        CONCURRENT: concurrent,
    }


_USER = _default(1_000, 30_000, 100, 3_000, 10)
DEFAULTS: dict[int, Stored] = {
    Role.ROLE_ADMIN: _default(10_000, 300_000, 1_000, 30_000, 100),
    Role.ROLE_USER: _USER,
    Role.ROLE_VIEWER: _default(100, 3_000, 10, 300, 1),
    Role.ROLE_GUEST: _default(0, 0, 0, 0, 0),
    Role.ROLE_UNSPECIFIED: _USER,  # agents and services, and people who were never seen
}

table = Table(
    "user_quotas",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("owner_kind", Text, primary_key=True),
    Column("owner_id", Text, primary_key=True),
    Column("role", Integer, nullable=False),
    Column("custom", Boolean, nullable=False),
    Column("daily_requests", BigInteger),
    Column("monthly_requests", BigInteger),
    Column("daily_tokens", BigInteger),
    Column("monthly_tokens", BigInteger),
    Column("daily_cost_usd", Numeric(20, 12)),
    Column("monthly_cost_usd", Numeric(20, 12)),
    Column("concurrent_requests", BigInteger),
    Column("epoch", BigInteger, nullable=False, server_default="1"),
    Column("revision", Integer, nullable=False, server_default="0"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_mine = owners.owned(table)
_with_now = (*table.c, func.now().label("now"))
_get = Statement(select(*_with_now).where(_mine))
_lock = Statement(select(*_with_now).where(_mine).with_for_update())
_share = Statement(select(table.c.epoch).where(_mine).with_for_update(read=True))
_now = Statement(select(func.now().label("now")))
_insert = upsert(table).values(**params("tenant_id owner_kind owner_id role"), custom=False)
_see = Statement(
    _insert.on_conflict_do_update(
        index_elements=["tenant_id", "owner_kind", "owner_id"],
        set_={"role": _insert.excluded.role, "revision": table.c.revision + 1, "update_time": func.now()},
        where=table.c.role != _insert.excluded.role,
    )
)
_ensure = Statement(_insert.on_conflict_do_nothing())
_set = Statement(
    update(table)
    .where(_mine)
    .values(**params(" ".join(LIMITS)), custom=True, revision=table.c.revision + 1, update_time=func.now())
    .returning(*table.c)
)
_renew = Statement(
    update(table)
    .where(_mine, table.c.epoch == func.coalesce(param("seen", BigInteger), table.c.epoch))
    .values(epoch=table.c.epoch + 1)
    .returning(*_with_now)
)


class QuotaNotFound(NotFound):
    """No quota of that owner that the caller may see."""

    def __init__(self) -> None:
        super().__init__("there is no such quota")


async def get(tx: Transaction, owner: Owner) -> tuple[quota_pb2.Quota, Limits]:
    """Give the quota of an owner that the caller sees, and its limits in the units of the windows."""
    if owner != owners.caller() and not owners.sees_all():
        raise QuotaNotFound
    row = await tx.one(_get, **owner.columns)
    if row is None:
        stored = DEFAULTS[_role(owner)]
        return _wire(owner, stored, custom=False, revision=0), windows.in_units(stored)
    return _wire(owner, _stored(row), custom=row["custom"], revision=row["revision"]), limits(row)


async def replace(tx: Transaction, request: pb.SetQuotaRequest) -> pb.SetQuotaResponse:
    """Set a quota whole. What is used up by a lower limit is told now: there may be no commit any more that would."""
    given = request.quota
    owner = owners.of(given.owner)
    row = await lock(tx, owner)
    updates.check_etag(given.etag, row["revision"])
    row = await tx.only(_set, **owner.columns, **_given(given))
    quota = _wire(owner, _stored(row), custom=True, revision=row["revision"])
    await outbox.record(tx, f"quota:{owner}", quota)
    if alerts.has_thresholds(limits(row)):
        day = (await now(tx)).date()
        await alerts.raise_crossed(tx, owner, limits(row), await ledgers.sums(tx, owner, day), day)
    return pb.SetQuotaResponse(quota=quota)


async def see(tx: Transaction, owner: Owner) -> Row:
    """Give the quota row of the caller; made, or brought to the caller's role, where need be."""
    row = await tx.one(_get, **owner.columns)
    if row is None or not fits(row, owner):
        await tx.run(_see, tenant_id=tx.tenant_id, **owner.columns, role=_role(owner))
        row = await tx.only(_get, **owner.columns)
    return row


def fits(row: Row, owner: Owner) -> bool:
    """Tell whether a row was made for the role that the owner has now."""
    return row["role"] == _role(owner)  # type: ignore[no-any-return]


async def lock(tx: Transaction, owner: Owner) -> Row:
    """Give the quota row, made where need be, locked until the transaction ends."""
    row = await tx.one(_lock, **owner.columns)
    if row is None:
        await tx.run(_ensure, tenant_id=tx.tenant_id, **owner.columns, role=_role(owner))
        row = await tx.only(_lock, **owner.columns)
    return row


async def share(tx: Transaction, owner: Owner) -> int:
    """Give the epoch, which nobody can change until the transaction ends."""
    return int((await tx.only(_share, **owner.columns))["epoch"])


async def renew(tx: Transaction, owner: Owner, *, seen: int | None = None) -> Row | None:
    """Begin a new epoch and give the row, locked: whoever reserved under the old one must begin again.

    None when there is no row, or when the epoch is not the one that was seen.
    """
    return await tx.one(_renew, **owner.columns, seen=seen)


async def now(tx: Transaction) -> datetime:
    """Give the database's time, the one clock that all processes share."""
    return (await tx.only(_now))["now"]  # type: ignore[no-any-return]


def limits(row: Row) -> Limits:
    """Give the limits that count, in the units of the windows."""
    return windows.in_units(_stored(row))


def _stored(row: Row) -> Stored:
    return {name: row[name] for name in LIMITS} if row["custom"] else DEFAULTS[row["role"]]


def _role(owner: Owner) -> int:
    """The caller's role counts for the caller alone; of others it is learned when they come."""
    return calls.caller().role if owner == owners.caller() and owner.kind == "user" else Role.ROLE_UNSPECIFIED


def _given(quota: quota_pb2.Quota) -> Stored:
    given = {name: getattr(quota, name) for name in LIMITS if quota.HasField(name)}  # type: ignore[arg-type]
    return dict.fromkeys(LIMITS) | {name: windows.limit(f"quota.{name}", value) for name, value in given.items()}


def _wire(owner: Owner, stored: Stored, *, custom: bool, revision: int) -> quota_pb2.Quota:
    quota = quota_pb2.Quota(owner=owners.wire(owner), custom=custom, etag=updates.etag(revision))
    for name, value in stored.items():
        if value is not None:
            setattr(quota, name, money.text(value) if isinstance(value, Decimal) else value)
    return quota
