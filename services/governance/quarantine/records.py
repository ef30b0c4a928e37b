"""Records: failed configurations, sealed with their evidence and chained. They are read and added to, never changed."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    MetaData,
    Select,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert as upsert

from services.governance.quarantine import dispositions, seals
from services.governance.quarantine.words import DISPOSITIONS, REASONS
from services.kit import outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import NotFound
from services.kit.paging import Page
from triptych.quarantine.v1 import quarantine_pb2, quarantine_service_pb2 as pb

table = Table(
    "quarantine_records",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("request_id", Uuid, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("previous_seal", Text, nullable=False),
    Column("seal", Text, nullable=False),
    Column("project_id", Uuid, nullable=False),
    Column("version_id", Uuid, nullable=False),
    Column("experiment_id", Uuid),
    Column("configuration_hash", Text, nullable=False),
    Column("configuration", JSONB, nullable=False),
    Column("reason", Text, nullable=False),
    Column("explanation", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("permanent", Boolean, nullable=False),
    Column("cool_down_end_time", DateTime(timezone=True)),
    Column("requested_by", Uuid, nullable=False),
    Column("quarantined_by", Uuid, nullable=False),
    Column("decision_reason", Text, nullable=False),
    Column("quarantine_time", DateTime(timezone=True), nullable=False),
)
heads = Table(
    "chain_heads",
    table.metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("seal", Text, nullable=False),
    implicit_returning=False,
)
_newest = (
    select(dispositions.table.c.disposition)
    .where(
        dispositions.table.c.tenant_id == table.c.tenant_id,
        dispositions.table.c.record_id == table.c.id,
    )
    .order_by(dispositions.table.c.sequence.desc())
    .limit(1)
    .scalar_subquery()
    .label("disposition")
)
_all: Select[Any] = select(table, _newest)
_get = Statement(_all.where(table.c.id == param("id")))
_of_configuration = Statement(
    _all.where(table.c.configuration_hash == param("configuration_hash")).order_by(table.c.position.desc()).limit(1)
)
_begin_chain = Statement(upsert(heads).values(tenant_id=param("tenant_id")).on_conflict_do_nothing())
_lock_chain = Statement(
    select(heads.c.position, heads.c.seal).where(heads.c.tenant_id == param("tenant_id")).with_for_update()
)
_stamp = Statement(select(func.uuidv7().label("id"), func.clock_timestamp().label("time")))
_insert = Statement(insert(table).values(**params(" ".join((*seals.FIELDS, "previous_seal", "seal")))))
_move_head = Statement(
    update(heads).where(heads.c.tenant_id == param("tenant")).values(position=param("position"), seal=param("seal"))
)


class QuarantineRecordNotFound(NotFound):
    """No such record in the caller's tenant."""

    def __init__(self, record_id: str) -> None:
        super().__init__("there is no such sealed record", record_id=record_id)


async def get(tx: Transaction, record_id: str) -> quarantine_pb2.QuarantineRecord:
    """Give one record."""
    return _wire(await row(tx, record_id))


async def page(tx: Transaction, request: pb.ListRecordsRequest, page: Page) -> pb.ListRecordsResponse:
    """Give one page, newest first."""
    query = _all.order_by(table.c.id.desc()).limit(page.limit)
    if request.project_id:
        query = query.where(table.c.project_id == request.project_id)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListRecordsResponse(records=[_wire(row) for row in rows], next_page_token=token)


async def row(tx: Transaction, record_id: object) -> Row:
    """Give the row of a record, with its newest disposition."""
    found = await tx.one(_get, id=record_id)
    if found is None:
        raise QuarantineRecordNotFound(str(record_id))
    return found


async def newest(tx: Transaction, configuration_hash: str) -> Row | None:
    """Give the row of the configuration's newest record, if it was ever sealed."""
    return await tx.one(_of_configuration, configuration_hash=configuration_hash)


class Chain:
    """A tenant's chain of seals, locked until the transaction ends: nobody else seals meanwhile."""

    def __init__(self, tx: Transaction, head: Row, stamp: Row) -> None:
        self._tx = tx
        self._head = head
        self.record_id = stamp["id"]
        self.time: datetime = stamp["time"]

    @classmethod
    async def lock(cls, tx: Transaction) -> "Chain":
        """Lock it, and take the id and the time of the next record, both later than those of the last."""
        await tx.run(_begin_chain, tenant_id=tx.tenant_id)
        head = await tx.only(_lock_chain, tenant_id=tx.tenant_id)
        return cls(tx, head, await tx.only(_stamp))

    async def seal(self, approved: Row) -> None:
        """Seal what an approved request holds as the chain's next record."""
        copied = "tenant_id project_id version_id experiment_id configuration_hash configuration reason explanation"
        values = {name: approved[name] for name in (*copied.split(), "evidence", "permanent", "requested_by")}
        values |= {
            "id": self.record_id,
            "request_id": approved["id"],
            "position": self._head["position"] + 1,
            "cool_down_end_time": None if approved["permanent"] else self.time + approved["cool_down"],
            "quarantined_by": approved["decided_by"],
            "decision_reason": approved["decision_reason"],
            "quarantine_time": self.time,
        }
        previous = self._head["seal"]
        seal = seals.of(values, previous)
        await self._tx.run(_insert, **values, previous_seal=previous, seal=seal)
        await self._tx.run(_move_head, tenant=approved["tenant_id"], position=values["position"], seal=seal)
        await self._told(values, previous, seal)

    async def _told(self, values: dict[str, Any], previous: str, seal: str) -> None:
        """Give the log what a witness needs to recognise this chain."""
        await dispositions.add(
            self._tx,
            self.record_id,
            dispositions.QUARANTINED,
            actor_id=str(values["quarantined_by"]),
            note=values["decision_reason"],
        )
        details = {
            "position": values["position"],
            "previous_seal": previous,
            "seal": seal,
            "configuration_hash": values["configuration_hash"],
            "quarantine_request_id": values["request_id"],
        }
        await outbox.record(self._tx, f"quarantine_record:{self.record_id}", details, action="quarantine.record.seal")


def _wire(row: Row) -> quarantine_pb2.QuarantineRecord:
    record = quarantine_pb2.QuarantineRecord(
        id=str(row["id"]),
        project_id=str(row["project_id"]),
        version_id=str(row["version_id"]),
        experiment_id=str(row["experiment_id"] or ""),
        configuration_hash=row["configuration_hash"],
        reason=REASONS.number(row["reason"]),
        explanation=row["explanation"],
        seal=row["seal"],
        disposition=DISPOSITIONS.number(row["disposition"]),
        cool_down_end_time=row["cool_down_end_time"],
        permanent=row["permanent"],
        quarantined_by=str(row["quarantined_by"]),
        quarantine_time=row["quarantine_time"],
    )
    record.configuration.update(row["configuration"])
    record.evidence.update(row["evidence"])
    return record
