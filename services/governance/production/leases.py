"""Leases of tasks: taken, renewed, ended with a result, ended with a failure, run out.

A task has one live lease at a time. Only its holder, with its number and before its end, renews or ends it; everybody
else is told LEASE_LOST. The clock is the database's. Who ends a lease locks the analysis first; who takes one waits for
nobody.
"""

from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from sqlalchemy import Interval, Text, and_, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY

from services.governance.production import analyses, documents, lifecycle, tasks
from services.governance.production.tasks import TaskNotFound
from services.kit import calls, outbox
from services.kit.db import Database, Row, Statement, Transaction, param
from services.kit.faults import FailedPrecondition
from triptych.production.v1 import analysis_task_pb2, analysis_task_service_pb2 as pb

USUAL = timedelta(seconds=60)
RAN_OUT = "the lease ran out: its worker neither renewed it nor handed in a result"
SERVICE = ("service", "production")

_task, _analysis = tasks.table, analyses.table
_waiting = text(  # literals, not parameters: so that the index of open tasks fits whatever plan is made
    "(analysis_tasks.state = 'pending' OR (analysis_tasks.state = 'running'"
    " AND analysis_tasks.lease_expire_time <= now() AND analysis_tasks.attempt < analysis_tasks.max_attempts))"
)


def _lease_statement(*, of_analysis: bool) -> Statement:
    """Take waiting tasks, oldest first, as many as fit into one answer; what others are just taking is passed over."""
    ready = (
        select(_task.c.id, (_task.c.input_size + _analysis.c.configuration_size).label("size"))
        .join(_analysis, _analysis.c.id == _task.c.analysis_id)
        .where(_waiting, _task.c.type == func.any(param("types", ARRAY(Text))))
        .order_by(_task.c.id)
        .limit(param("limit"))
        .with_for_update(of=_task, skip_locked=True)
    )
    if of_analysis:
        ready = ready.where(_task.c.analysis_id == param("of_analysis"))
    locked = ready.cte("ready")
    before = func.sum(locked.c.size).over(order_by=locked.c.id) - locked.c.size
    fitting = select(locked.c.id, before.label("before")).cte("fitting")
    return Statement(
        update(_task)
        .where(
            _task.c.id == fitting.c.id,
            fitting.c.before < documents.ANSWER,
            _analysis.c.id == _task.c.analysis_id,
        )
        .values(
            state="running",
            attempt=_task.c.attempt + 1,
            lease_number=_task.c.lease_number + 1,
            lease_holder=param("holder"),
            worker=param("worker_name"),
            lease_begin_time=func.now(),
            lease_expire_time=func.now() + param("duration", Interval),
            start_time=func.coalesce(_task.c.start_time, func.now()),
        )
        .returning(*_task.c, _analysis.c.configuration)
    )


_lease = {chosen: _lease_statement(of_analysis=chosen) for chosen in (False, True)}
_held = and_(
    _task.c.id == param("task_id"),
    _task.c.state == "running",
    _task.c.lease_number == param("fencing_token"),
    _task.c.lease_holder == param("holder"),
    _task.c.lease_expire_time > func.now(),
)
_renew = Statement(
    update(_task).where(_held).values(lease_expire_time=func.now() + param("duration", Interval)).returning(*_task.c)
)
_complete = Statement(
    update(_task)
    .where(_held)
    .values(
        state="completed",
        result=param("found"),
        result_size=param("found_size"),
        error_message="",
        lease_holder=None,
        lease_expire_time=None,
        finish_time=func.now(),
        duration_ms=func.floor(func.extract("epoch", func.now() - _task.c.lease_begin_time) * 1000),
    )
    .returning(*_task.c)
)
_find = Statement(select(_task.c.analysis_id).where(_task.c.id == param("task_id")))
_read_held = Statement(select(_task.c.attempt, _task.c.max_attempts).where(_held).with_for_update())
_read_expired = Statement(
    select(_task.c.attempt, _task.c.max_attempts)
    .where(_task.c.id == param("task_id"), _task.c.state == "running", _task.c.lease_expire_time <= func.now())
    .with_for_update()
)
_give_back = Statement(
    text(
        "UPDATE analysis_tasks SET state = :to_state, error_message = :problem, lease_holder = NULL,"
        " lease_expire_time = NULL, finish_time = CASE WHEN :to_state = 'failed' THEN now() END"
        " WHERE id = :task_id RETURNING *"
    )
)
_list_expired = Statement(text("SELECT tenant_id, task_id FROM expired_leases()"))


class LeaseLost(FailedPrecondition):
    """The lease ran out, or the task is another worker's now."""

    def __init__(self, fencing_token: int) -> None:
        super().__init__("the lease ran out, ended, or is another worker's; drop the work", fencing_token=fencing_token)


async def take(tx: Transaction, request: pb.LeaseTasksRequest) -> pb.LeaseTasksResponse:
    """Take waiting tasks."""
    chosen = {"of_analysis": request.analysis_id} if request.analysis_id else {}
    rows = await tx.all(
        _lease[bool(chosen)],
        types=[analyses.TYPES.word(type_) for type_ in request.types],
        limit=request.max_tasks or 1,
        holder=calls.caller().id,
        worker_name=request.worker,
        duration=_duration(request.lease_duration),
        **chosen,
    )
    if not rows:
        outbox.unchanged()
        return pb.LeaseTasksResponse()
    rows = sorted(rows, key=lambda row: row["id"])
    await analyses.start(tx, sorted({row["analysis_id"] for row in rows}))
    for row in rows:
        await _record(tx, row, fencing_token=row["lease_number"])
    return pb.LeaseTasksResponse(leases=[_wire(row, row["configuration"]) for row in rows])


async def renew(tx: Transaction, request: pb.RenewLeaseRequest) -> pb.RenewLeaseResponse:
    """Move the end of a lease."""
    row = await tx.one(_renew, **_mine(request), duration=_duration(request.lease_duration))
    if row is None:
        await _analysis_of(tx, request.task_id)
        raise LeaseLost(request.fencing_token)
    return pb.RenewLeaseResponse(lease=_wire(row, {}))


async def complete(tx: Transaction, request: pb.CompleteTaskRequest) -> pb.CompleteTaskResponse:
    """Store a result; the analysis ends with its last task."""
    found = documents.read("result", request.result, documents.RESULT)
    analysis_id = await _analysis_of(tx, request.task_id)
    await analyses.lock(tx, analysis_id)
    row = await tx.one(_complete, **_mine(request), found=found, found_size=request.result.ByteSize())
    if row is None:
        raise LeaseLost(request.fencing_token)
    await _record(tx, row, duration_ms=row["duration_ms"])
    await analyses.settle(tx, analysis_id)
    return pb.CompleteTaskResponse(task=tasks.wire(row))


async def fail(tx: Transaction, request: pb.FailTaskRequest) -> pb.FailTaskResponse:
    """End a try: the task waits again while tries are left."""
    analysis_id = await _analysis_of(tx, request.task_id)
    await analyses.lock(tx, analysis_id)
    held = await tx.one(_read_held, **_mine(request))
    if held is None:
        raise LeaseLost(request.fencing_token)
    row = await _end_try(tx, request.task_id, held, request.error_message)
    await _record(tx, row, error_message=request.error_message)
    await analyses.settle(tx, analysis_id)
    return pb.FailTaskResponse(task=tasks.wire(row))


async def expire(db: Database) -> int:
    """Take back leases that ran out, in all tenants, and say how many there were."""
    async with db.begin(tenant="") as tx:
        expired = await tx.all(_list_expired)
    count = 0
    for row in expired:
        async with db.begin(tenant=str(row["tenant_id"])) as tx:
            count += await _expire(tx, str(row["task_id"]))
    return count


async def _expire(tx: Transaction, task_id: str) -> bool:
    analysis_id = await _analysis_of(tx, task_id)
    await analyses.lock(tx, analysis_id)
    expired = await tx.one(_read_expired, task_id=task_id)
    if expired is None:  # renewed, ended or taken over since it was listed
        return False
    row = await _end_try(tx, task_id, expired, RAN_OUT)
    await outbox.record(tx, f"task:{task_id}", _facts(row), action="production.task.expire", actor=SERVICE)
    await analyses.settle(tx, analysis_id, SERVICE)
    return True


async def _end_try(tx: Transaction, task_id: str, tries: Row, problem: str) -> Row:
    state = lifecycle.after_failure(attempt=tries["attempt"], max_attempts=tries["max_attempts"])
    return await tx.only(_give_back, task_id=task_id, to_state=state, problem=problem)


async def _analysis_of(tx: Transaction, task_id: str) -> str:
    row = await tx.one(_find, task_id=task_id)
    if row is None:
        raise TaskNotFound(task_id)
    return str(row["analysis_id"])


async def _record(tx: Transaction, row: Row, **facts: Any) -> None:
    await outbox.record(tx, f"task:{row['id']}", _facts(row) | facts)


def _facts(row: Row) -> dict[str, Any]:
    """What the audit log learns of a task; inputs and results are the tenant's own matter."""
    names = ("state", "worker", "attempt", "max_attempts")
    return {"analysis_id": str(row["analysis_id"])} | {name: row[name] for name in names}


def _mine(request: pb.RenewLeaseRequest | pb.CompleteTaskRequest | pb.FailTaskRequest) -> dict[str, Any]:
    return {"task_id": request.task_id, "fencing_token": request.fencing_token, "holder": calls.caller().id}


def _duration(given: Duration) -> timedelta:
    return given.ToTimedelta() or USUAL


def _wire(row: Row, configuration: dict[str, Any]) -> analysis_task_pb2.TaskLease:
    lease = analysis_task_pb2.TaskLease(
        task=tasks.wire(row), fencing_token=row["lease_number"], expire_time=row["lease_expire_time"]
    )
    if configuration:
        lease.configuration.update(configuration)
    return lease
