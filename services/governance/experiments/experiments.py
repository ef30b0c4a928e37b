"""Experiments: a candidate configuration, tried on a dataset beside what is in production; its states and its row."""

from typing import Any

from google.protobuf.struct_pb2 import Struct
from sqlalchemy import Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select, update
from sqlalchemy.dialects.postgresql import JSONB

from services.governance.experiments import blacklist, datasets
from services.governance.experiments.words import STATES
from services.kit import calls, canonical, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import Aborted, FailedPrecondition, Fault, NotFound
from services.kit.paging import Page
from triptych.experiments.v1 import experiment_pb2, experiment_service_pb2 as pb
from triptych.projects.v1 import version_pb2
from triptych.quarantine.v1 import reevaluation_pb2

table = Table(
    "experiments",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("project_id", Uuid, nullable=False),
    Column("dataset_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("configuration", JSONB, nullable=False),
    Column("configuration_hash", Text, nullable=False),
    Column("version_id", Uuid, nullable=False),
    Column("production_version_id", Uuid),
    Column("reevaluation_id", Uuid),
    Column("created_by", Uuid, nullable=False),
    Column("state", Text, nullable=False, server_default="created"),
    Column("state_reason", Text, nullable=False, server_default=""),
    Column("result_count", Integer, nullable=False, server_default="0"),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("start_time", DateTime(timezone=True)),
    Column("complete_time", DateTime(timezone=True)),
)
_insert = Statement(
    insert(table)
    .values(
        **params(
            "tenant_id project_id dataset_id name description configuration configuration_hash version_id"
            " reevaluation_id created_by"
        )
    )
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
_changed = {"revision": table.c.revision + 1, "update_time": func.now()}
_mine = update(table).where(table.c.id == param("experiment_id"))
_start = Statement(
    _mine.values(
        state="running", start_time=func.now(), production_version_id=param("production_version_id"), **_changed
    ).returning(*table.c)
)
_end = Statement(
    _mine.values(state=param("to_state"), state_reason=param("reason"), complete_time=func.now(), **_changed).returning(
        *table.c
    )
)
_move = Statement(
    _mine.where(table.c.state == param("from_state")).values(state=param("to_state"), **_changed).returning(*table.c)
)
_count = Statement(
    _mine.values(result_count=table.c.result_count + param("more", Integer), **_changed).returning(*table.c)
)
_quarantine = Statement(
    update(table)
    .where(table.c.configuration_hash == param("hash"), table.c.state != "cancelled", table.c.state != "quarantined")
    .values(state="quarantined", state_reason=param("reason"), **_changed)
)


class ExperimentNotFound(NotFound):
    """No such experiment in the caller's tenant."""

    def __init__(self, experiment_id: str) -> None:
        super().__init__("there is no such experiment", experiment_id=experiment_id)


class ExperimentStateConflict(FailedPrecondition):
    """The experiment is not in a state that allows this."""

    def __init__(self, state: str, needed: str) -> None:
        super().__init__(f"the experiment is {state} and must be {needed}", state=state, needed=needed)


class ExperimentWithoutResults(FailedPrecondition):
    """No result of the candidate is recorded."""


class ReevaluationNotApproved(FailedPrecondition):
    """The re-evaluation does not let this configuration in."""


def _dataset_unknown() -> datasets.DatasetNotFound:
    return datasets.DatasetNotFound("")


CONSTRAINTS = {
    "experiments_dataset": _dataset_unknown,
    "experiments_reevaluation": lambda: ReevaluationNotApproved(
        "an experiment stands on this re-evaluation already; ask for another one"
    ),
}


async def refusal(
    tx: Transaction,
    given: experiment_pb2.Experiment,
    configuration_hash: str,
    reevaluation: reevaluation_pb2.Reevaluation | None,
) -> Fault | None:
    """Say why this experiment cannot be, before a version is made for it; None when nothing speaks against it."""
    try:
        await datasets.get(tx, given.dataset_id)
        if given.reevaluation_id:
            _admit(configuration_hash, reevaluation)
        else:
            await blacklist.refuse(tx, configuration_hash)
    except Fault as fault:
        return fault
    return None


def _admit(configuration_hash: str, reevaluation: reevaluation_pb2.Reevaluation | None) -> None:
    if reevaluation is None or reevaluation.state != reevaluation_pb2.REEVALUATION_STATE_APPROVED:
        raise ReevaluationNotApproved("there is no approved re-evaluation of this id; have it approved first")
    if reevaluation.configuration_hash != configuration_hash:
        raise ReevaluationNotApproved(
            "the re-evaluation is for another configuration", configuration_hash=reevaluation.configuration_hash
        )


async def create(
    tx: Transaction, given: experiment_pb2.Experiment, configuration_hash: str, version: version_pb2.Version | Fault
) -> pb.CreateExperimentResponse:
    """Store an experiment with a candidate that projects registered as this version, or raise why it has none.

    A configuration that is blocked is refused by the insert itself, unless a re-evaluation is named.
    """
    if isinstance(version, Fault):
        raise version
    if version.configuration_hash != configuration_hash:
        raise Aborted("the project's defaults changed while the experiment was created; retry")
    await blacklist.know(tx, version.configuration_hash)
    if not given.reevaluation_id:
        await blacklist.refuse(tx, version.configuration_hash)
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        project_id=given.project_id,
        dataset_id=given.dataset_id,
        name=given.name,
        description=given.description,
        configuration=canonical.plain(given.configuration),
        configuration_hash=version.configuration_hash,
        version_id=version.id,
        reevaluation_id=given.reevaluation_id or None,
        created_by=calls.caller().id,
    )
    experiment = wire(row)
    await outbox.record(tx, f"experiment:{experiment.id}", experiment)
    return pb.CreateExperimentResponse(experiment=experiment)


async def get(tx: Transaction, experiment_id: str) -> experiment_pb2.Experiment:
    """Give one experiment."""
    return wire(await row_of(tx, experiment_id))


async def page(tx: Transaction, request: pb.ListExperimentsRequest, page: Page) -> pb.ListExperimentsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if request.project_id:
        query = query.where(table.c.project_id == request.project_id)
    if request.state:
        query = query.where(table.c.state == STATES.word(request.state))
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListExperimentsResponse(experiments=[wire(row) for row in rows], next_page_token=token)


async def start(
    tx: Transaction, request: pb.StartExperimentRequest, production_version_id: str
) -> pb.StartExperimentResponse:
    """Start it, and pin what is in production as the other arm."""
    row = await lock(tx, request.experiment_id)
    updates.check_etag(request.etag, row["revision"])
    if row["state"] == "quarantined":
        await blacklist.refuse(tx, row["configuration_hash"])
    demand(row, "created")
    started = await tx.only(_start, experiment_id=row["id"], production_version_id=production_version_id or None)
    experiment = wire(started)
    await outbox.record(tx, f"experiment:{experiment.id}", summary(experiment))
    return pb.StartExperimentResponse(experiment=experiment)


async def cancel(tx: Transaction, request: pb.CancelExperimentRequest) -> pb.CancelExperimentResponse:
    """Stop it before its end."""
    row = await lock(tx, request.experiment_id)
    updates.check_etag(request.etag, row["revision"])
    demand(row, "created", "running")
    ended = await tx.only(_end, experiment_id=row["id"], to_state="cancelled", reason=request.reason)
    experiment = wire(ended)
    await outbox.record(tx, f"experiment:{experiment.id}", summary(experiment))
    return pb.CancelExperimentResponse(experiment=experiment)


async def end(tx: Transaction, experiment_id: Any, *, to_state: str, reason: str = "") -> experiment_pb2.Experiment:
    """End a running experiment as completed or failed."""
    return wire(await tx.only(_end, experiment_id=experiment_id, to_state=to_state, reason=reason))


async def count(tx: Transaction, experiment_id: Any, more: int) -> experiment_pb2.Experiment:
    """Count results that were recorded."""
    return wire(await tx.only(_count, experiment_id=experiment_id, more=more))


async def move(tx: Transaction, experiment_id: Any, from_state: str, to_state: str) -> None:
    """Move it on; raise if it is elsewhere by now."""
    if await tx.one(_move, experiment_id=experiment_id, from_state=from_state, to_state=to_state) is None:
        demand(await row_of(tx, str(experiment_id)), from_state)


async def quarantine(tx: Transaction, configuration_hash: str, reason: str) -> int:
    """Quarantine all experiments with this configuration, those in production included."""
    return await tx.run(_quarantine, hash=configuration_hash, reason=reason)


async def lock(tx: Transaction, experiment_id: str) -> Row:
    """Give the row, locked until the transaction ends."""
    return await row_of(tx, experiment_id, _lock)


async def row_of(tx: Transaction, experiment_id: str, statement: Statement = _get) -> Row:
    """Give the row."""
    row = await tx.one(statement, id=experiment_id)
    if row is None:
        raise ExperimentNotFound(experiment_id)
    return row


def demand(row: Row, *states: str) -> None:
    """Raise unless it is in one of these states."""
    if row["state"] not in states:
        raise ExperimentStateConflict(row["state"], " or ".join(states))


def summary(experiment: experiment_pb2.Experiment) -> experiment_pb2.Experiment:
    """Give it without its configuration, which the audit log has from its creation."""
    copy = experiment_pb2.Experiment()
    copy.CopyFrom(experiment)
    copy.ClearField("configuration")
    return copy


def wire(row: Row) -> experiment_pb2.Experiment:
    """Give the message of a row."""
    configuration = Struct()
    configuration.update(row["configuration"])
    return experiment_pb2.Experiment(
        id=str(row["id"]),
        project_id=str(row["project_id"]),
        dataset_id=str(row["dataset_id"]),
        name=row["name"],
        description=row["description"],
        configuration=configuration,
        configuration_hash=row["configuration_hash"],
        version_id=str(row["version_id"]),
        production_version_id=str(row["production_version_id"] or ""),
        state=STATES.number(row["state"]),
        reevaluation_id=str(row["reevaluation_id"] or ""),
        created_by=str(row["created_by"]),
        result_count=row["result_count"],
        state_reason=row["state_reason"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        start_time=row["start_time"],
        complete_time=row["complete_time"],
        etag=updates.etag(row["revision"]),
    )
