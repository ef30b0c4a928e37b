"""Overrides: an operator went on with a database that is not what was witnessed. Each is of one break, and is kept.

The newest says which super-log it is from then on, for every process. Where a log was shorter than the super-log lists,
the sizes between are void (`breaks`): what was listed and signed of them does not count, and they are not signed again.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, MetaData, Table, Uuid, func, select

from services.audit.verifier import log_name
from services.kit.db import Row, Statement, Transaction, param

ACCEPTED = "audit.witness.override"
"""In the system's log, and in each log that had lost entries."""
EMPTY = bytes(32)
"""Stands for the root of a super-log without heads."""
NAMESPACE = uuid.UUID("6f4a1e0e-52f0-5c5e-9f3b-0f2f6f1f7a11")
breaks = Table(
    "breaks",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("kept", BigInteger, nullable=False),
    Column("listed", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
)
_void = Statement(
    select(breaks.c.listed)
    .where(breaks.c.tenant_id == param("tenant_id"), breaks.c.kept < param("size"), breaks.c.listed >= param("size"))
    .limit(1)
)
_cut = Statement(select(func.max(breaks.c.listed).label("listed")).where(breaks.c.tenant_id == param("tenant_id")))
_NEWEST = """
    SELECT number, token, epoch, follows, super_size, super_root FROM overrides ORDER BY number DESC LIMIT 1
"""
_STORE = """
    INSERT INTO overrides (number, token, epoch, follows, super_size, super_root, state, event_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_BREAK = "INSERT INTO breaks (tenant_id, number, kept, listed, event_id) VALUES ($1, $2, $3, $4, $5)"
# Found by the event's id, whose entry says the same; entries that left the log stood before what was lost.
_UNTOLD = f"""
    SELECT b.tenant_id, b.number, b.kept, b.listed, b.event_id, o.token FROM breaks b JOIN overrides o USING (number)
    WHERE b.tenant_id = $1 AND b.kept >= $2 AND NOT EXISTS (
        SELECT FROM dedup d JOIN audit_log l USING (tenant_id, seq, recorded_at)
        WHERE d.tenant_id = b.tenant_id AND d.event_id = b.event_id AND (l.source, l.action) = ('audit', '{ACCEPTED}')
          AND l.payload @> jsonb_build_object('accepted', o.token, 'kept', b.kept, 'listed', b.listed))
    ORDER BY b.number
"""
_ALL = """
    SELECT b.tenant_id, b.number, b.kept, b.listed, b.event_id, o.token
    FROM breaks b JOIN overrides o USING (number) ORDER BY b.number, b.tenant_id
"""


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator accepted last; before the first, number 0 and the first super-log."""

    number: int = 0
    token: str = ""
    epoch: int = 1
    follows: str = ""
    """Line of every checkpoint of this super-log: which statement of the one before the witness had signed last."""
    super_size: int = 0
    super_root: bytes = EMPTY
    """The super-log as it was accepted."""

    @property
    def log_id(self) -> str:
        """Name of the super-log from then on."""
        return f"super/{self.epoch}" if self.epoch > 1 else "super"


async def newest(tx: Transaction) -> Override:
    """Give what was accepted last, whoever asks."""
    row = await tx.connection.fetchrow(_NEWEST)
    return Override(**dict(row)) if row is not None else Override()


async def store(tx: Transaction, override: Override, *, state: str, event_id: str, behind: Sequence[Row]) -> None:
    """Keep an override, and each log that was shorter than listed, in a transaction of the system."""
    await tx.connection.execute(
        _STORE,
        override.number,
        override.token,
        override.epoch,
        override.follows,
        override.super_size,
        override.super_root,
        state,
        event_id,
    )
    values = [
        (row["tenant_id"], override.number, row["size"], row["listed"], event_of(row["tenant_id"], override.token))
        for row in behind
    ]
    await tx.connection.executemany(_BREAK, values)


def event_of(tenant_id: object, token: str) -> uuid.UUID:
    """Give the id of the event that tells a log of an override."""
    return uuid.uuid5(NAMESPACE, f"{tenant_id} {token}")


def stands(table: Table) -> ColumnElement[bool]:
    """Say of rows with tenant_id and size that their size is not void."""
    gone = select(breaks.c.number).where(
        breaks.c.tenant_id == table.c.tenant_id, table.c.size > breaks.c.kept, table.c.size <= breaks.c.listed
    )
    return ~gone.exists()


async def void(tx: Transaction, size: int) -> int:
    """Give the size beyond which the transaction's log is signed again, when this one is void; else 0."""
    row = await tx.one(_void, tenant_id=tx.tenant_id, size=size)
    return row["listed"] if row is not None else 0


async def cut(tx: Transaction) -> int:
    """Give how many entries the transaction's log had before it was cut last; 0 when it never was."""
    row = await tx.one(_cut, tenant_id=tx.tenant_id)
    return (row["listed"] if row is not None else None) or 0


async def broken(tx: Transaction) -> list[Row]:
    """Give every log that had lost entries, in a transaction of the system."""
    return list(await tx.connection.fetch(_ALL))


async def untold(tx: Transaction, begin: int) -> str:
    """Say which loss no entry of the transaction's log tells of, from the first entry that it has; empty when none."""
    row = await tx.connection.fetchrow(_UNTOLD, tx.tenant_id, begin)
    if row is None:
        return ""
    return (
        f"the log had {row['listed']} entries and was cut to {row['kept']}, and no entry of it says that somebody went"
        f" on without them (override {row['token']})"
    )


def payload(row: Row) -> dict[str, Any]:
    """Give what the log of a tenant says of its loss."""
    return {
        "accepted": row["token"],
        "kept": row["kept"],
        "listed": row["listed"],
        "log": log_name(str(row["tenant_id"])),
    }
