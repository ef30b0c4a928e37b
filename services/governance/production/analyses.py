"""Analyses: the row, its wire form, its queries and its faults.

An analysis is pinned to the version that was in production when it was asked for, and keeps a copy of its
configuration. Its counters are derived from its tasks. Who changes a task locks the analysis first (`lock`) and then
lets `settle` decide whether that ended it; this one order of locks is why nothing here can deadlock.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB

from services.governance.production import documents, lifecycle
from services.kit import calls, canonical, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import FailedPrecondition, NotFound
from services.kit.paging import Page
from services.kit.words import Words
from triptych.production.v1 import analysis_pb2, analysis_service_pb2 as pb
from triptych.projects.v1.version_pb2 import Version

STATES = Words(analysis_pb2.AnalysisState)
TYPES = Words(analysis_pb2.TaskType)
USUAL_ATTEMPTS = 3

table = Table(
    "analysis_sessions",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("project_id", Uuid, nullable=False),
    Column("version_id", Uuid, nullable=False),
    Column("configuration_hash", Text, nullable=False),
    Column("configuration", JSONB, nullable=False),
    Column("configuration_size", Integer, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("state", Text, nullable=False, server_default="created"),
    Column("metadata", JSONB, nullable=False),
    Column("metadata_size", Integer, nullable=False),
    Column("error_message", Text, nullable=False, server_default=""),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("start_time", DateTime(timezone=True)),
    Column("finish_time", DateTime(timezone=True)),
)
_insert = Statement(
    insert(table)
    .values(
        **params(
            "tenant_id project_id version_id configuration_hash configuration configuration_size"
            " user_id metadata metadata_size"
        )
    )
    .returning(table.c.id)
)
_insert_tasks = Statement(
    text(
        "INSERT INTO analysis_tasks (tenant_id, analysis_id, type, input, input_size, optional, max_attempts)"
        " SELECT :tenant_id, :analysis_id, t.type, t.input, t.input_size, t.optional, t.max_attempts FROM ROWS FROM ("
        "jsonb_to_recordset(:tasks) AS (type text, input jsonb, input_size int, optional boolean, max_attempts int)"
        ") WITH ORDINALITY AS t (type, input, input_size, optional, max_attempts, position) ORDER BY t.position"
    )
)
_shown = [column for column in table.c if column.name not in {"configuration", "configuration_size", "metadata_size"}]
_counts = text(
    "(SELECT count(*) FROM analysis_tasks t WHERE t.analysis_id = analysis_sessions.id) AS task_count,"
    " (SELECT count(*) FROM analysis_tasks t WHERE t.analysis_id = analysis_sessions.id"
    " AND t.state NOT IN ('pending', 'running')) AS ended_task_count"
)
_get = Statement(select(*_shown, _counts).where(table.c.id == param("id")))
_exists = Statement(select(table.c.id).where(table.c.id == param("id")))
_lock = Statement(select(table.c.id, table.c.state).where(table.c.id == param("id")).with_for_update())
_share = Statement(select(table.c.id, table.c.state).where(table.c.id == param("id")).with_for_update(read=True))
_move = Statement(
    update(table)
    .where(table.c.id == param("analysis_id"))
    .values(state=param("to_state"), revision=table.c.revision + 1)
)
_touch = Statement(update(table).where(table.c.id == param("analysis_id")).values(revision=table.c.revision + 1))
_start = Statement(
    text(
        "UPDATE analysis_sessions SET state = 'running', start_time = now(), revision = revision + 1 WHERE id IN"
        " (SELECT id FROM analysis_sessions WHERE id = ANY(:ids) AND state = 'queued' FOR UPDATE SKIP LOCKED)"
    )
)
_end = Statement(
    update(table)
    .where(table.c.id == param("analysis_id"))
    .values(
        state=param("to_state"),
        error_message=param("error_message"),
        finish_time=func.now(),
        revision=table.c.revision + 1,
    )
)
_skip_tasks = Statement(
    text(
        "UPDATE analysis_tasks SET state = 'skipped', lease_holder = NULL, lease_expire_time = NULL,"
        " finish_time = now() WHERE analysis_id = :analysis_id AND state IN ('pending', 'running')"
    )
)
_tally = Statement(
    text(
        "SELECT count(*) FILTER (WHERE state IN ('pending', 'running')) AS open_tasks,"
        " count(*) FILTER (WHERE state = 'failed' AND NOT optional) AS required_failures,"
        " (SELECT 'task ' || f.id || ' failed: ' || f.error_message FROM analysis_tasks f"
        " WHERE f.analysis_id = :analysis_id AND f.state = 'failed' AND NOT f.optional"
        " ORDER BY f.finish_time, f.id LIMIT 1) AS error_message"
        " FROM analysis_tasks WHERE analysis_id = :analysis_id"
    )
)


class AnalysisNotFound(NotFound):
    """No such analysis in the caller's tenant."""

    def __init__(self, analysis_id: str) -> None:
        super().__init__("there is no such analysis", analysis_id=analysis_id)


class AnalysisStateConflict(FailedPrecondition):
    """The analysis is not in a state that allows this."""

    def __init__(self, state: str, needed: str) -> None:
        super().__init__(f"the analysis is {state}; this needs one that {needed}", state=state)


class ProjectArchived(FailedPrecondition):
    """Nothing new runs in an archived project."""

    def __init__(self, project_id: str) -> None:
        super().__init__("the project is archived; nothing new runs in it", project_id=project_id)


async def create(tx: Transaction, request: pb.CreateAnalysisRequest, *, version: Version) -> pb.CreateAnalysisResponse:
    """Store an analysis of what is in production, with all of its tasks."""
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        project_id=request.project_id,
        version_id=version.id,
        configuration_hash=version.configuration_hash,
        configuration=canonical.plain(version.configuration),
        configuration_size=version.configuration.ByteSize(),
        user_id=calls.caller().id,
        metadata=documents.read("metadata", request.metadata, documents.METADATA),
        metadata_size=request.metadata.ByteSize(),
    )
    tasks = [_task(index, spec) for index, spec in enumerate(request.tasks)]
    await tx.run(_insert_tasks, tenant_id=tx.tenant_id, analysis_id=row["id"], tasks=tasks)
    await tx.run(_move, analysis_id=row["id"], to_state="queued")
    analysis = await get(tx, str(row["id"]))
    facts = ("project_id", "version_id", "configuration_hash", "task_count")
    await outbox.record(tx, f"analysis:{analysis.id}", {name: getattr(analysis, name) for name in facts})
    return pb.CreateAnalysisResponse(analysis=analysis)


async def get(tx: Transaction, analysis_id: str) -> analysis_pb2.Analysis:
    """Give one analysis."""
    return _wire(await _row(tx, _get, analysis_id))


async def page(tx: Transaction, request: pb.ListAnalysesRequest, page: Page) -> pb.ListAnalysesResponse:
    """Give one page, newest first; it is shorter than asked for when the metadata in it are large."""
    chosen = select(table.c.id, table.c.metadata_size).order_by(table.c.id.desc()).limit(page.limit)
    if request.project_id:
        chosen = chosen.where(table.c.project_id == request.project_id)
    if request.state:
        chosen = chosen.where(table.c.state == STATES.word(request.state))
    if page.after is not None:
        chosen = chosen.where(table.c.id < page.after[0])
    found = await tx.all(chosen)
    page = replace(page, size=min(page.size, documents.fitting(row["metadata_size"] for row in found)))
    kept, token = page.end(found, key=lambda row: (row["id"],))
    query = select(*_shown, _counts).where(table.c.id == func.any(param("ids"))).order_by(table.c.id.desc())
    rows = await tx.all(query, ids=[row["id"] for row in kept])
    return pb.ListAnalysesResponse(analyses=[_wire(row) for row in rows], next_page_token=token)


async def cancel(tx: Transaction, request: pb.CancelAnalysisRequest) -> pb.CancelAnalysisResponse:
    """Stop an analysis: its open tasks are skipped, and with them their leases are gone."""
    state = await lock(tx, request.analysis_id)
    if lifecycle.ended(lifecycle.ANALYSIS, state):
        raise AnalysisStateConflict(state, "has not ended")
    await _finish(tx, request.analysis_id, "cancelled", request.reason)
    analysis = await get(tx, request.analysis_id)
    await outbox.record(tx, f"analysis:{analysis.id}", {"state": "cancelled", "reason": request.reason})
    return pb.CancelAnalysisResponse(analysis=analysis)


async def check(tx: Transaction, analysis_id: str) -> None:
    """Raise unless the tenant has this analysis."""
    await _row(tx, _exists, analysis_id)


async def hold_running(tx: Transaction, analysis_id: str) -> None:
    """Raise unless the analysis runs, and keep it from ending before the transaction does."""
    state: str = (await _row(tx, _share, analysis_id))["state"]
    if state != "running":
        raise AnalysisStateConflict(state, "runs")


async def lock(tx: Transaction, analysis_id: str) -> str:
    """Lock an analysis until the transaction ends, and give its state."""
    state: str = (await _row(tx, _lock, analysis_id))["state"]
    return state


async def start(tx: Transaction, analysis_ids: Sequence[Any]) -> None:
    """Say that these run, where that is new. It waits for nobody: who holds one says so too, or ends it."""
    await tx.run(_start, ids=list(analysis_ids))


async def settle(tx: Transaction, analysis_id: str, actor: tuple[str, str] | None = None) -> None:
    """End an analysis if its tasks say so. Its lock is held, so the last of its tasks sees all others."""
    await start(tx, [analysis_id])  # a lease that could not say so left it queued
    tally = await tx.only(_tally, analysis_id=analysis_id)
    state = lifecycle.outcome(open_tasks=tally["open_tasks"], required_failures=tally["required_failures"])
    if state is None:
        await tx.run(_touch, analysis_id=analysis_id)
        return
    error_message = tally["error_message"] or ""
    await _finish(tx, analysis_id, state, error_message)
    action = {"completed": "production.analysis.complete", "failed": "production.analysis.fail"}[state]
    details = {"state": state, "error_message": error_message}
    await outbox.record(tx, f"analysis:{analysis_id}", details, action=action, actor=actor)


async def _finish(tx: Transaction, analysis_id: str, state: str, error_message: str) -> None:
    await tx.run(_skip_tasks, analysis_id=analysis_id)
    await tx.run(_end, analysis_id=analysis_id, to_state=state, error_message=error_message)


def _task(index: int, spec: analysis_pb2.TaskSpec) -> dict[str, Any]:
    return {
        "type": TYPES.word(spec.type),
        "input": documents.read(f"tasks[{index}].input", spec.input, documents.INPUT),
        "input_size": spec.input.ByteSize(),
        "optional": spec.optional,
        "max_attempts": spec.max_attempts or USUAL_ATTEMPTS,
    }


async def _row(tx: Transaction, statement: Statement, analysis_id: str) -> Row:
    row = await tx.one(statement, id=analysis_id)
    if row is None:
        raise AnalysisNotFound(analysis_id)
    return row


def _wire(row: Row) -> analysis_pb2.Analysis:
    analysis = analysis_pb2.Analysis(
        id=str(row["id"]),
        project_id=str(row["project_id"]),
        version_id=str(row["version_id"]),
        configuration_hash=row["configuration_hash"],
        user_id=str(row["user_id"]),
        state=STATES.number(row["state"]),
        error_message=row["error_message"],
        task_count=row["task_count"],
        ended_task_count=row["ended_task_count"],
        create_time=row["create_time"],
        start_time=row["start_time"],
        finish_time=row["finish_time"],
        etag=updates.etag(row["revision"]),
    )
    analysis.metadata.update(row["metadata"])
    return analysis
