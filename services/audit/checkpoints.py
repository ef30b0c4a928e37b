"""Checkpoints: signed statements of what a log was at a moment. A stored one is never replaced."""

import base64

from sqlalchemy import BigInteger, Column, DateTime, Integer, LargeBinary, MetaData, Table, Text, Uuid, select
from sqlalchemy.dialects.postgresql import insert

from services.audit import overrides, verifier
from services.audit.envelopes import text_of
from services.audit.verifier import log_name
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import NotFound
from triptych.audit.v1 import event_pb2

table = Table(
    "checkpoints",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("size", BigInteger, primary_key=True),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("key_version", Integer, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("sign_time", DateTime(timezone=True), nullable=False),
)
_mine = (table.c.tenant_id == param("tenant_id")) & overrides.stands(table)
# Two replicas may sign the same size; both say the same, and the first stays.
_insert = Statement(
    insert(table)
    .values(**params("tenant_id size root note signature key_version public_key sign_time"))
    .on_conflict_do_nothing()
)
_newest = Statement(select(table).where(_mine).order_by(table.c.size.desc()).limit(1))
_covering = Statement(select(table).where(_mine, table.c.size >= param("min_size")).order_by(table.c.size).limit(1))
_between = Statement(
    select(table).where(_mine, table.c.size > param("begin"), table.c.size <= param("end")).order_by(table.c.size)
)


class CheckpointNotFound(NotFound):
    """None covers this yet."""

    def __init__(self) -> None:
        super().__init__("no checkpoint covers this yet; the next is signed within seconds")


async def store(tx: Transaction, **values: object) -> None:
    """Store a checkpoint of the transaction's log."""
    await tx.run(_insert, tenant_id=tx.tenant_id, **values)


async def newest(tx: Transaction) -> Row | None:
    """Give the newest of the transaction's log, or None before the first."""
    return await tx.one(_newest, tenant_id=tx.tenant_id)


async def get(tx: Transaction, min_size: int) -> Row:
    """Give the first with at least this many entries, or the newest when 0."""
    row = await (tx.one(_covering, tenant_id=tx.tenant_id, min_size=min_size) if min_size else newest(tx))
    if row is None:
        raise CheckpointNotFound
    return row


async def between(tx: Transaction, begin: int, end: int) -> dict[int, verifier.Checkpoint]:
    """Give those with more than `begin` and at most `end` entries, by size."""
    rows = await tx.all(_between, tenant_id=tx.tenant_id, begin=begin, end=end)
    return {row["size"]: statement(row) for row in rows}


def statement(row: Row) -> verifier.Checkpoint:
    """Give it in the form that the verifier checks."""
    return verifier.Checkpoint(
        log_id=_log_id(row),
        size=row["size"],
        root=row["root"],
        note=row["note"],
        signature=row["signature"],
        public_key=row["public_key"],
    )


def wire(row: Row) -> event_pb2.Checkpoint:
    """Give it on the wire."""
    return event_pb2.Checkpoint(
        log_id=_log_id(row),
        size=row["size"],
        root_hash=row["root"].hex(),
        note=row["note"],
        signature=base64.b64encode(row["signature"]).decode(),
        key_version=row["key_version"],
        public_key=base64.b64encode(row["public_key"]).decode(),
        sign_time=row["sign_time"],
    )


def _log_id(row: Row) -> str:
    """Name its log. The super-log has another name after an operator went on without what a witness had seen."""
    name = log_name(str(row["tenant_id"]))
    first = row["note"].partition("\n")[0]
    return first[first.rindex("/super") + 1 :] if name == "super" and "/super" in first else name


def plain(row: Row) -> dict[str, object]:
    """Give a checkpoint as an export has it."""
    return {
        "log_id": statement(row).log_id,
        "size": row["size"],
        "root_hash": row["root"].hex(),
        "note": row["note"],
        "signature": base64.b64encode(row["signature"]).decode(),
        "key_version": row["key_version"],
        "public_key": base64.b64encode(row["public_key"]).decode(),
        "signed_at": text_of(row["sign_time"]),
    }
