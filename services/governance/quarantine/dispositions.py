"""Dispositions: what happened to a record since it was sealed. They are only added, each one pointing at the last."""

from sqlalchemy import Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select

from services.kit.db import Statement, Transaction, param, params

QUARANTINED = "quarantined"
UNDER_REVIEW = "under_review"
UPHELD = "upheld"
APPROVED_RETRY = "approved_retry"

table = Table(
    "dispositions",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("record_id", Uuid, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("previous_disposition", Text, nullable=False),
    Column("disposition", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("actor_id", Uuid, nullable=False),
    Column("reevaluation_id", Uuid),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
)
_last = Statement(
    select(table.c.sequence, table.c.disposition)
    .where(table.c.tenant_id == param("tenant_id"), table.c.record_id == param("record_id"))
    .order_by(table.c.sequence.desc())
    .limit(1)
)
_insert = Statement(
    insert(table).values(
        **params("tenant_id record_id sequence previous_disposition disposition note actor_id reevaluation_id")
    )
)


async def add(
    tx: Transaction, record_id: object, disposition: str, *, actor_id: str, note: str, reevaluation_id: object = None
) -> None:
    """Add the next disposition of a record; one that may not follow the last is refused by the database."""
    last = await tx.one(_last, tenant_id=tx.tenant_id, record_id=record_id)
    await tx.run(
        _insert,
        tenant_id=tx.tenant_id,
        record_id=record_id,
        sequence=last["sequence"] + 1 if last is not None else 1,
        previous_disposition=last["disposition"] if last is not None else "new",
        disposition=disposition,
        note=note,
        actor_id=actor_id,
        reevaluation_id=reevaluation_id,
    )
