"""The history of versions: what happened to which one, why and by whom. Rows are added and never changed."""

from sqlalchemy import Column, DateTime, MetaData, Table, Text, Uuid, func, insert, select

from services.kit.db import Row, Statement, Transaction, params
from services.kit.paging import Page
from services.kit.words import Words
from services.projects import projects
from triptych.projects.v1 import version_service_pb2 as pb
from triptych.projects.v1.version_pb2 import VersionAction, VersionHistoryEntry, VersionTag

table = Table(
    "version_history",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("project_id", Uuid, nullable=False),
    Column("version_id", Uuid, nullable=False),
    Column("action", Text, nullable=False),
    Column("from_tag", Text),
    Column("to_tag", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("changed_by", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_insert = Statement(
    insert(table).values(**params("tenant_id project_id version_id action from_tag to_tag reason changed_by"))
)
_TAGS, _ACTIONS = Words(VersionTag), Words(VersionAction)


async def add(tx: Transaction, version: Row, action: str, *, reason: str, by: str, from_tag: str | None) -> None:
    """Write down what happened to a version; `version` is its row afterwards."""
    await tx.run(
        _insert,
        tenant_id=tx.tenant_id,
        project_id=version["project_id"],
        version_id=version["id"],
        action=action,
        from_tag=from_tag,
        to_tag=version["tag"],
        reason=reason,
        changed_by=by,
    )


async def page(tx: Transaction, request: pb.ListVersionHistoryRequest, page: Page) -> pb.ListVersionHistoryResponse:
    """Give one page, newest first."""
    await projects.find(tx, request.project_id)
    query = select(table).where(table.c.project_id == request.project_id).order_by(table.c.id.desc()).limit(page.limit)
    if request.version_id:
        query = query.where(table.c.version_id == request.version_id)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListVersionHistoryResponse(entries=[_wire(row) for row in rows], next_page_token=token)


def _wire(row: Row) -> VersionHistoryEntry:
    return VersionHistoryEntry(
        id=str(row["id"]),
        version_id=str(row["version_id"]),
        action=_ACTIONS.number(row["action"]),
        from_tag=_TAGS.number(row["from_tag"]),
        to_tag=_TAGS.number(row["to_tag"]),
        reason=row["reason"],
        changed_by=row["changed_by"],
        create_time=row["create_time"],
    )
