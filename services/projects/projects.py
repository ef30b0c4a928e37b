"""Projects: the row, its wire form, its queries and its faults."""

from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    column,
    func,
    insert,
    select,
    table as lightweight,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.kit import calls, canonical, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import AlreadyExists, FailedPrecondition, NotFound
from services.kit.paging import Page
from services.projects import configurations
from triptych.projects.v1 import project_pb2, project_service_pb2 as pb

UPDATABLE = ("name", "description", "settings")
LARGEST_SETTINGS = 16 * 1024
"""Bytes as JSON."""

table = Table(
    "projects",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("settings", JSONB, nullable=False),
    Column("configuration_defaults", JSONB, nullable=False),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("archive_time", DateTime(timezone=True)),
)
# Its production version is read with a project, in the same statement.
_versions = lightweight("versions", column("id"), column("project_id"), column("tag"), column("current"))
_production = (
    select(_versions.c.id)
    .where(_versions.c.project_id == table.c.id, _versions.c.tag == "v2", _versions.c.current)
    .scalar_subquery()
    .label("production_version_id")
)
_columns = (*table.c, _production)
_insert = Statement(
    insert(table)
    .values(**params("tenant_id name description owner_id settings configuration_defaults"))
    .returning(*table.c)  # nothing is in production yet, and a subquery in here would not see the new row
)
_get = Statement(select(*_columns).where(table.c.id == param("id")))
_lock = Statement(select(*_columns).where(table.c.id == param("id")).with_for_update(of=table))
_update = Statement(
    update(table)
    .where(table.c.id == param("project_id"))
    .values(**params("name description settings"), revision=table.c.revision + 1, update_time=func.now())
    .returning(*_columns)
)
_archive = Statement(
    update(table)
    .where(table.c.id == param("project_id"), table.c.archive_time.is_(None))
    .values(archive_time=func.now(), revision=table.c.revision + 1, update_time=func.now())
    .returning(*_columns)
)


class ProjectNotFound(NotFound):
    """No such project in the caller's tenant."""

    def __init__(self, project_id: str) -> None:
        super().__init__("there is no such project", project_id=project_id)


class ProjectNameTaken(AlreadyExists):
    """A live project of the tenant has this name."""


class ProjectArchived(FailedPrecondition):
    """The project does not change any more."""


CONSTRAINTS = {"projects_name": lambda: ProjectNameTaken("a project of this name exists; choose another name")}


async def store(tx: Transaction, given: project_pb2.Project) -> Row:
    """Store a project and nothing beside it; `foundations` makes one whole."""
    return await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        name=given.name,
        description=given.description,
        owner_id=calls.caller().id,
        settings=canonical.document("project.settings", given.settings, LARGEST_SETTINGS),
        configuration_defaults=configurations.read(given.configuration_defaults),
    )


async def get(tx: Transaction, project_id: str) -> project_pb2.Project:
    """Give one project."""
    return _wire(await _row(tx, _get, project_id))


async def page(tx: Transaction, request: pb.ListProjectsRequest, page: Page) -> pb.ListProjectsResponse:
    """Give one page, newest first."""
    query = select(*_columns).order_by(table.c.id.desc()).limit(page.limit)
    if not request.show_archived:
        query = query.where(table.c.archive_time.is_(None))
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListProjectsResponse(projects=[_wire(row) for row in rows], next_page_token=token)


async def change(tx: Transaction, request: pb.UpdateProjectRequest) -> pb.UpdateProjectResponse:
    """Change what the mask names."""
    row = await lock(tx, updates.target(request, "project"))
    updates.check_etag(request.project.etag, row["revision"])
    merged = updates.merge(_wire(row), request.project, request.update_mask, UPDATABLE)
    changed = await tx.only(
        _update,
        project_id=row["id"],
        name=merged.name,
        description=merged.description,
        settings=canonical.document("project.settings", merged.settings, LARGEST_SETTINGS),
    )
    project = _wire(changed)
    await outbox.record(tx, f"project:{project.id}", project)
    return pb.UpdateProjectResponse(project=project)


async def archive(tx: Transaction, request: pb.ArchiveProjectRequest) -> pb.ArchiveProjectResponse:
    """Archive a project; one that is archived stays as it is."""
    row = await hold(tx, request.project_id)
    updates.check_etag(request.etag, row["revision"])
    archived = await tx.one(_archive, project_id=row["id"])
    project = _wire(archived or row)
    await outbox.record(tx, f"project:{project.id}")
    return pb.ArchiveProjectResponse(project=project)


async def lock(tx: Transaction, project_id: str) -> Row:
    """Give the row of a live project, locked until the transaction ends."""
    row = await hold(tx, project_id)
    check_live(row)
    return row


async def hold(tx: Transaction, project_id: str) -> Row:
    """Give the row of a project, live or not, locked until the transaction ends."""
    return await _row(tx, _lock, project_id)


async def find(tx: Transaction, project_id: str) -> Row:
    """Give the row of a project, live or not."""
    return await _row(tx, _get, project_id)


def check_live(row: Row) -> None:
    """Raise when the project is archived."""
    if row["archive_time"] is not None:
        raise ProjectArchived("the project is archived and does not change any more", project_id=row["id"])


async def _row(tx: Transaction, statement: Statement, project_id: str) -> Row:
    row = await tx.one(statement, id=project_id)
    if row is None:
        raise ProjectNotFound(project_id)
    return row


def _wire(row: Row) -> project_pb2.Project:
    project = project_pb2.Project(
        id=str(row["id"]),
        name=row["name"],
        description=row["description"],
        owner_id=str(row["owner_id"]),
        production_version_id=str(row["production_version_id"] or ""),
        archive_time=row["archive_time"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
    )
    project.settings.update(row["settings"])
    project.configuration_defaults.update(row["configuration_defaults"])
    return project
