"""Production of a project: what is let in, what leaves, what takes its place.

Each is one transaction under the lock of the project. Decides nothing: promotions and demotions arrive approved.
Predecessors are found by what each version superseded.
"""

from sqlalchemy import Integer, func, literal, select, update

from services.kit import calls, outbox
from services.kit.changes import Change
from services.kit.db import Row, Statement, Transaction, param
from services.kit.faults import Aborted, FailedPrecondition
from services.projects import lifecycle, projects, version_history, versions
from services.projects.lifecycle import Ancestor
from services.projects.versions import table
from triptych.projects.v1 import version_service_pb2 as pb

_changed = {"revision": table.c.revision + 1, "update_time": func.now()}
_promote = Change(
    update(table)
    .where(table.c.id == param("version_id"), table.c.tag == "v1")
    .values(
        tag="v2",
        current=True,
        supersedes_id=param("supersedes"),
        promoted_by=param("by"),
        promote_time=func.now(),
        **_changed,
    )
    .returning(*table.c),
    kind="version",
)
_retire = Change(
    update(table)
    .where(table.c.id == param("version_id"), table.c.current)
    .values(current=False, **_changed)
    .returning(*table.c),
    kind="version",
)
_restore = Change(
    update(table)
    .where(table.c.id == param("version_id"), table.c.tag == "v2")
    .values(current=True, promote_time=func.now(), **_changed)
    .returning(*table.c),
    kind="version",
)
_demote = Change(
    update(table)
    .where(table.c.id == param("version_id"), table.c.tag != "v3")
    .values(tag="v3", current=False, restored_id=param("restored"), **_changed)
    .returning(*table.c),
    kind="version",
)


def _lineage() -> Statement:
    """Read what a version superseded, what that one had superseded, and so on.

    Left out is what holds the same configuration as the version itself or as one in quarantine: going back to that
    would bring back what failed.
    """
    kept = (table.c.id, table.c.tag, table.c.supersedes_id, table.c.project_id, table.c.configuration_hash)
    start = select(*kept, literal(0, Integer).label("depth")).where(table.c.id == param("version_id"))
    line = start.cte("line", recursive=True)
    before, failed = table.alias("before"), table.alias("failed")
    earlier = [before.c[column.name] for column in kept]
    line = line.union_all(select(*earlier, line.c.depth + 1).where(before.c.id == line.c.supersedes_id))
    sealed = select(failed.c.id).where(
        failed.c.project_id == line.c.project_id,
        failed.c.configuration_hash == line.c.configuration_hash,
        (failed.c.tag == "v3") | (failed.c.id == param("version_id")),
    )
    return Statement(select(line.c.id, line.c.tag).where(line.c.depth > 0, ~sealed.exists()).order_by(line.c.depth))


_ancestors = _lineage()


class VersionNotPromotable(FailedPrecondition):
    """Only a v1 version can be promoted."""


class VersionWithoutPredecessor(FailedPrecondition):
    """Production superseded nothing that is still v2."""


class ProductionMoved(Aborted):
    """Production is another version than the caller expected."""

    def __init__(self, production_version_id: str) -> None:
        super().__init__("production has moved; read it and decide again", production_version_id=production_version_id)


async def promote(tx: Transaction, request: pb.PromoteVersionRequest) -> pb.PromoteVersionResponse:
    """Let a v1 version in; the incumbent stays v2 and is not current any more."""
    project, row = await _locked(tx, request.version_id)
    if row["current"]:
        await outbox.record(
            tx, f"version:{row['id']}", _facts(row, request, superseded_version_id=row["supersedes_id"])
        )
    else:
        row = await _let_in(tx, project, row, request)
    superseded = str(row["supersedes_id"] or "")
    return pb.PromoteVersionResponse(version=versions.wire(row), superseded_version_id=superseded)


async def demote(tx: Transaction, request: pb.DemoteVersionRequest) -> pb.DemoteVersionResponse:
    """Move a version into v3; when it was in production, its predecessor takes its place."""
    _, row = await _locked(tx, request.version_id)
    if lifecycle.may_move(row["tag"], lifecycle.V3):
        row = await _degrade(tx, row, request)
    else:
        await outbox.record(tx, f"version:{row['id']}", _facts(row, request, restored_version_id=row["restored_id"]))
    restored = str(row["restored_id"] or "")
    return pb.DemoteVersionResponse(version=versions.wire(row), restored_version_id=restored)


async def roll_back(tx: Transaction, request: pb.RollBackProductionRequest) -> pb.RollBackProductionResponse:
    """Put the predecessor of production back in its place."""
    project = await projects.lock(tx, request.project_id)
    leaving = await _production(tx, project)
    if request.expected_production_version_id.lower() not in ("", leaving):
        raise ProductionMoved(leaving)
    predecessor = await _predecessor(tx, leaving) if leaving else None
    if predecessor is None:
        raise VersionWithoutPredecessor("there is no earlier version to go back to", project_id=project["id"])
    by = calls.caller().id
    await _supersede(tx, leaving, reason=request.reason, by=by)
    facts = {"project_id": str(project["id"]), "superseded_version_id": leaving, "reason": request.reason}
    row = await _restore.only(tx, facts, version_id=predecessor)
    await version_history.add(tx, row, "restored", reason=request.reason, by=by, from_tag=row["tag"])
    return pb.RollBackProductionResponse(version=versions.wire(row), superseded_version_id=leaving)


async def _locked(tx: Transaction, version_id: str) -> tuple[Row, Row]:
    """Lock the project first, always, and read the version under its lock."""
    found = await versions.find(tx, version_id)
    project = await projects.hold(tx, str(found["project_id"]))
    return project, await versions.find(tx, version_id)


async def _production(tx: Transaction, project: Row) -> str:
    """Read what is in production under the lock: the statement that took the lock saw the time before it waited."""
    return str((await projects.find(tx, str(project["id"])))["production_version_id"] or "")


async def _let_in(tx: Transaction, project: Row, row: Row, request: pb.PromoteVersionRequest) -> Row:
    projects.check_live(project)
    if not lifecycle.may_move(row["tag"], lifecycle.V2):
        raise VersionNotPromotable(f"only a v1 version can be promoted, and this is {row['tag']}", tag=row["tag"])
    incumbent = await _production(tx, project)
    if request.expected_production_version_id.lower() != incumbent:
        raise ProductionMoved(incumbent)
    said = {"reason": request.reason, "by": request.approved_by}
    if incumbent:
        await _supersede(tx, incumbent, **said)
    facts = _facts(row, request, superseded_version_id=incumbent)
    promoted = await _promote.only(
        tx, facts, version_id=row["id"], supersedes=incumbent or None, by=request.approved_by
    )
    await version_history.add(tx, promoted, "promoted", from_tag=row["tag"], **said)
    return promoted


async def _degrade(tx: Transaction, row: Row, request: pb.DemoteVersionRequest) -> Row:
    said = {"reason": request.reason, "by": request.approved_by}
    predecessor = await _predecessor(tx, str(row["id"])) if row["current"] else None
    facts = _facts(row, request, restored_version_id=predecessor)
    demoted = await _demote.only(tx, facts, version_id=row["id"], restored=predecessor)
    await version_history.add(tx, demoted, "degraded", from_tag=row["tag"], **said)
    if predecessor is not None:
        restored = await _restore.only(tx, said, action="projects.version.restore", version_id=predecessor)
        await version_history.add(tx, restored, "restored", from_tag=restored["tag"], **said)
    return demoted


async def _predecessor(tx: Transaction, version_id: str) -> str | None:
    rows = await tx.all(_ancestors, version_id=version_id)
    return lifecycle.predecessor(Ancestor(str(row["id"]), row["tag"]) for row in rows)


async def _supersede(tx: Transaction, version_id: str, *, reason: str, by: str) -> None:
    facts = {"reason": reason, "by": by}
    row = await _retire.only(tx, facts, action="projects.version.supersede", version_id=version_id)
    await version_history.add(tx, row, "superseded", reason=reason, by=by, from_tag=row["tag"])


def _facts(row: Row, request: pb.PromoteVersionRequest | pb.DemoteVersionRequest, **other: object) -> dict[str, str]:
    """Give the details of the event: what the change was decided with, and the other version that it concerns."""
    facts = {"project_id": str(row["project_id"]), "approved_by": request.approved_by, "reason": request.reason}
    return facts | {name: str(value or "") for name, value in other.items()}
