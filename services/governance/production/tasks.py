"""Tasks of analyses: the row, its wire form and how they are listed. Leases change them, see leases.py."""

from dataclasses import replace

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, select
from sqlalchemy.dialects.postgresql import JSONB

from services.governance.production import analyses, documents
from services.kit.db import Row, Transaction, param
from services.kit.faults import NotFound
from services.kit.paging import Page
from services.kit.words import Words
from triptych.production.v1 import analysis_task_pb2, analysis_task_service_pb2 as pb

STATES = Words(analysis_task_pb2.TaskState)

table = Table(
    "analysis_tasks",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("analysis_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("input", JSONB, nullable=False),
    Column("input_size", Integer, nullable=False),
    Column("result", JSONB),
    Column("result_size", Integer, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("optional", Boolean, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("worker", Text, nullable=False),
    Column("lease_number", BigInteger, nullable=False),
    Column("lease_holder", Uuid),
    Column("lease_begin_time", DateTime(timezone=True)),
    Column("lease_expire_time", DateTime(timezone=True)),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("start_time", DateTime(timezone=True)),
    Column("finish_time", DateTime(timezone=True)),
    Column("duration_ms", BigInteger),
)


class TaskNotFound(NotFound):
    """No such task in the caller's tenant."""

    def __init__(self, task_id: str) -> None:
        super().__init__("there is no such task", task_id=task_id)


async def page(tx: Transaction, request: pb.ListTasksRequest, page: Page) -> pb.ListTasksResponse:
    """Give one page of an analysis's tasks, oldest first; it is shorter than asked for when results are large."""
    await analyses.check(tx, request.analysis_id)
    chosen = (
        select(table.c.id, (table.c.input_size + table.c.result_size).label("size"))
        .where(table.c.analysis_id == request.analysis_id)
        .order_by(table.c.id)
        .limit(page.limit)
    )
    if page.after is not None:
        chosen = chosen.where(table.c.id > page.after[0])
    found = await tx.all(chosen)
    page = replace(page, size=min(page.size, documents.fitting(row["size"] for row in found)))
    kept, token = page.end(found, key=lambda row: (row["id"],))
    query = select(table).where(table.c.id == func.any(param("ids"))).order_by(table.c.id)
    rows = await tx.all(query, ids=[row["id"] for row in kept])
    return pb.ListTasksResponse(tasks=[wire(row) for row in rows], next_page_token=token)


def wire(row: Row) -> analysis_task_pb2.AnalysisTask:
    """Give a row as the message that callers see."""
    task = analysis_task_pb2.AnalysisTask(
        id=str(row["id"]),
        analysis_id=str(row["analysis_id"]),
        type=analyses.TYPES.number(row["type"]),
        state=STATES.number(row["state"]),
        error_message=row["error_message"],
        optional=row["optional"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        worker=row["worker"],
        start_time=row["start_time"],
        finish_time=row["finish_time"],
        duration_ms=row["duration_ms"],
        create_time=row["create_time"],
    )
    task.input.update(row["input"])
    if row["result"] is not None:
        task.result.update(row["result"])
    return task
