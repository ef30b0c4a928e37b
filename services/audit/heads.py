"""Heads: the super-log. Each of its leaves states how many entries a log has, and with which root.

It is a log like the others, but its leaves are these statements: head, tiles and checkpoints are kept in the same
tables under an id that no tenant has. One signature over it covers all logs, and a tenant is shown its own leaf alone.
"""

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table, Uuid, select

from services.audit import checkpoints, logs, merkle, overrides, tiles
from services.audit.checkpoints import CheckpointNotFound
from services.audit.verifier import compose_head, leaf_hash, log_name
from services.kit import clock
from services.kit.db import Row, Statement, Transaction, param
from triptych.audit.v1 import event_pb2

MOST = 1000
"""Heads that one transaction lists."""
table = Table(
    "heads",
    MetaData(),
    Column("seq", BigInteger, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
)
_mine = (table.c.tenant_id == param("tenant_id")) & overrides.stands(table)
_newest = Statement(select(table).where(_mine).order_by(table.c.size.desc()).limit(1))
_under = Statement(select(table).where(_mine, table.c.seq < param("super_size")).order_by(table.c.size.desc()).limit(1))
_between = Statement(
    select(table).where(_mine, table.c.size > param("begin"), table.c.size <= param("end")).order_by(table.c.size)
)
_INSERT = """
    INSERT INTO heads (seq, tenant_id, size, root)
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bytea[])
"""


@dataclass(frozen=True, slots=True)
class Listed:
    """A log's newest head under the newest super-checkpoint, and the hashes between them."""

    head: Row
    hashes: list[bytes]
    checkpoint: Row


async def newest(tx: Transaction) -> Row | None:
    """Give the head of the transaction's log that was listed last, or None."""
    return await tx.one(_newest, tenant_id=tx.tenant_id)


async def between(tx: Transaction, begin: int, end: int) -> dict[int, bytes]:
    """Give the roots that were listed of the transaction's log, by size."""
    rows = await tx.all(_between, tenant_id=tx.tenant_id, begin=begin, end=end)
    return {row["size"]: row["root"] for row in rows}


async def enlist(tx: Transaction, origin: str) -> int:
    """List the signed heads that are newer than those listed, in a transaction of the super-log; give their number."""
    head = await logs.lock(tx)
    rows = await tx.connection.fetch("SELECT tenant_id, size, root FROM unlisted_heads($1)", MOST)
    if not rows:
        return 0
    size = head["size"] + len(rows)
    leaves = [leaf_hash(statement(row, origin)) for row in rows]
    columns = [[row[name] for row in rows] for name in ("tenant_id", "size", "root")]
    await tx.connection.execute(_INSERT, list(range(head["size"], size)), *columns)
    edge = await tiles.edge(tx, head["size"])
    await tiles.store(tx, edge.extend(leaves))
    await logs.advance(
        tx,
        size=size,
        last_leaf=leaves[-1],
        recorded_at=logs.later(clock.now(), head["recorded_at"]),
        own_seq=0,
        old_size=head["size"],
    )
    return len(rows)


async def find(tx: Transaction, tenant_id: str) -> Listed:
    """Give a log's newest head under the newest super-checkpoint with its proof, in a transaction of the super-log."""
    checkpoint = await checkpoints.newest(tx)
    if checkpoint is None:
        raise CheckpointNotFound
    head = await tx.one(_under, tenant_id=tenant_id, super_size=checkpoint["size"])
    if head is None:
        raise CheckpointNotFound
    path = await tiles.hashes(tx, merkle.inclusion(head["seq"], checkpoint["size"]))
    return Listed(head, path, checkpoint)


def statement(row: Row, origin: str) -> str:
    """Give the text of a leaf."""
    return compose_head(origin=origin, log_id=log_name(str(row["tenant_id"])), size=row["size"], root=row["root"])


def wire(row: Row, origin: str) -> event_pb2.LogHead:
    """Give it on the wire."""
    return event_pb2.LogHead(
        log_id=log_name(str(row["tenant_id"])),
        size=row["size"],
        root_hash=row["root"].hex(),
        seq=row["seq"],
        statement=statement(row, origin),
    )
