"""Manifests: what vouches, in the log itself, for a month that leaves it; and the archives that the month went into.

A manifest is an entry like any other, and its row here says how far the retirement of its log's month is. Leaf hashes
and tiles stay: `min_index` says from where on the log has bodies as well.
"""

import uuid
from collections.abc import Sequence
from datetime import date

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.kit.db import Database, Row, Statement, Transaction, param, params
from services.kit.faults import Aborted
from services.kit.paging import Page
from services.kit.words import Words
from triptych.audit.v1 import retention_service_pb2 as pb

STATES = Words(pb.RetirementState)
_metadata = MetaData()
table = Table(
    "manifests",
    _metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("month", Date, primary_key=True),
    Column("begin_seq", BigInteger, nullable=False),
    Column("end_seq", BigInteger, nullable=False),
    Column("last_leaf", LargeBinary, nullable=False),
    Column("manifest_seq", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("sources", JSONB, nullable=False),
    Column("state", Text, nullable=False, server_default="manifested"),
)
archives = Table(
    "archives",
    _metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("month", Date, primary_key=True),
    Column("retention_class", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("entries", BigInteger, nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("delete_time", DateTime(timezone=True)),
)
_mine = table.c.tenant_id == param("tenant_id")
_files = archives.c.tenant_id == param("tenant_id")
_insert = Statement(
    insert(table).values(**params("tenant_id month begin_seq end_seq last_leaf manifest_seq event_id sources"))
)
_get = Statement(select(table).where(_mine, table.c.month == param("month")))
_archived = Statement(
    update(table).where(_mine, table.c.month == param("month"), table.c.state == "manifested").values(state="archived")
)
_before = Statement(
    select(table).where(_mine, table.c.end_seq <= param("begin")).order_by(table.c.end_seq.desc()).limit(1)
)
_retired = Statement(select(table).where(_mine, table.c.state == "retired").order_by(table.c.end_seq.desc()).limit(1))
_holding = Statement(
    select(table.c.month).where(
        _mine, table.c.state == "retired", table.c.begin_seq <= param("seq"), table.c.end_seq > param("seq")
    )
)
_add_archive = Statement(
    insert(archives).values(**params("tenant_id month retention_class name sha256 entries expire_time"))
)
_of = Statement(
    select(archives).where(_files, archives.c.month == func.any(param("months"))).order_by(archives.c.retention_class)
)
_old = Statement(
    select(archives)
    .join(table, (table.c.tenant_id == archives.c.tenant_id) & (table.c.month == archives.c.month))
    .where(_files, table.c.state == "retired", archives.c.delete_time.is_(None), archives.c.expire_time < param("now"))
)
_delete = Statement(
    update(archives)
    .where(
        _files,
        archives.c.month == param("month"),
        archives.c.retention_class == param("retention_class"),
        archives.c.delete_time.is_(None),
    )
    .values(delete_time=param("now"))
)


class MonthRetired(Aborted):
    """A month left the log while it was read from its first entry to its last."""


def folder(month: date, log_id: str) -> str:
    """Name the archives of a log's month."""
    return f"{month:%Y-%m}/{log_id}"


async def store(tx: Transaction, **values: object) -> None:
    """Store the manifest of a month of the transaction's log."""
    await tx.run(_insert, tenant_id=tx.tenant_id, **values)


async def get(tx: Transaction, month: date) -> Row | None:
    """Give the manifest of a month of the transaction's log."""
    return await tx.one(_get, tenant_id=tx.tenant_id, month=month)


async def before(tx: Transaction, begin: int) -> Row | None:
    """Give the manifest of the month before a place, if that one has any."""
    return await tx.one(_before, tenant_id=tx.tenant_id, begin=begin)


async def last_retired(tx: Transaction) -> Row | None:
    """Give the manifest of the last month that has left the log."""
    return await tx.one(_retired, tenant_id=tx.tenant_id)


async def min_index(tx: Transaction) -> int:
    """Give the place of the first entry whose body the log has."""
    row = await last_retired(tx)
    return row["end_seq"] if row is not None else 0


async def same(db: Database, begin: int) -> None:
    """Raise MonthRetired when the log does not begin any more where it began."""
    async with db.begin() as tx:
        if await min_index(tx) != begin:
            raise MonthRetired("a month left the log while it was exported; export again")


async def archive_of(tx: Transaction, seq: int) -> str:
    """Name the archives that hold an entry; empty while the log does."""
    row = await tx.one(_holding, tenant_id=tx.tenant_id, seq=seq)
    return folder(row["month"], tx.tenant_id) if row is not None else ""


async def archived(tx: Transaction, month: date, files: Sequence[dict[str, object]]) -> None:
    """Say that the archives of a month are written and verified."""
    if await tx.run(_archived, tenant_id=tx.tenant_id, month=month):
        for file in files:
            await tx.run(_add_archive, tenant_id=tx.tenant_id, month=month, **file)


async def expired(tx: Transaction, now: object) -> list[Row]:
    """Give the archives of the transaction's log whose class need not be kept any more."""
    return await tx.all(_old, tenant_id=tx.tenant_id, now=now)


async def deleted(tx: Transaction, row: Row, now: object) -> bool:
    """Say that an archive's file is to be no more; False when that was said before."""
    values = {"month": row["month"], "retention_class": row["retention_class"], "now": now}
    return bool(await tx.run(_delete, tenant_id=tx.tenant_id, **values))


def deletion_id(row: Row) -> str:
    """Give the id of the event that tells of an archive's end."""
    return str(uuid.uuid5(uuid.UUID(str(row["tenant_id"])), f"archive {row['name']}"))


async def page(tx: Transaction, page: Page) -> pb.ListRetirementsResponse:
    """Give one page, newest month first."""
    query = select(table).where(table.c.tenant_id == tx.tenant_id).order_by(table.c.month.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.month < date.fromisoformat(page.after[0]))
    rows, token = page.end(await tx.all(query), key=lambda row: (row["month"],))
    files = await tx.all(_of, tenant_id=tx.tenant_id, months=[row["month"] for row in rows])
    return pb.ListRetirementsResponse(
        retirements=[_wire(row, [file for file in files if file["month"] == row["month"]]) for row in rows],
        next_page_token=token,
        min_index=await min_index(tx),
    )


def _wire(row: Row, files: Sequence[Row]) -> pb.Retirement:
    return pb.Retirement(
        month=f"{row['month']:%Y-%m}",
        begin_seq=row["begin_seq"],
        end_seq=row["end_seq"],
        manifest_seq=row["manifest_seq"],
        manifest_event_id=str(row["event_id"]),
        state=STATES.number(row["state"]),
        archives=[
            pb.Archive(
                retention_class=file["retention_class"],
                name=file["name"],
                sha256=file["sha256"].hex(),
                entries=file["entries"],
                expire_time=file["expire_time"],
                delete_time=file["delete_time"],
            )
            for file in files
        ],
    )
