"""Versions: the row, its wire form, its queries and its faults. What moves one between zones is in `productions`."""

from typing import Any

from google.protobuf.struct_pb2 import Struct
from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.kit import calls, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import FailedPrecondition, NotFound
from services.kit.paging import Page
from services.kit.words import Words
from services.projects import configurations, projects, version_history
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import version_service_pb2 as pb
from triptych.projects.v1.version_pb2 import Version, VersionTag

table = Table(
    "versions",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("project_id", Uuid, nullable=False),
    Column("tag", Text, nullable=False),
    Column("current", Boolean, nullable=False),
    Column("configuration", JSONB, nullable=False),
    Column("configuration_hash", Text, nullable=False),
    Column("changelog", Text, nullable=False),
    Column("parent_version_id", Uuid),
    Column("supersedes_id", Uuid),
    Column("restored_id", Uuid),
    Column("created_by", Text, nullable=False),
    Column("promoted_by", Text),
    Column("promote_time", DateTime(timezone=True)),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_GIVEN = "tenant_id project_id configuration configuration_hash changelog parent_version_id created_by"
_insert = Statement(insert(table).values(**params(_GIVEN), tag="v1", current=False).returning(*table.c))
_found = Statement(
    insert(table)
    .values(**params(_GIVEN), tag="v2", current=True, promoted_by=param("created_by"), promote_time=func.now())
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
_production = Statement(
    select(table).where(table.c.project_id == param("project_id"), table.c.tag == "v2", table.c.current)
)
_TAGS = Words(VersionTag)


class VersionNotFound(NotFound):
    """No such version in the caller's tenant, or none that the caller may see."""

    def __init__(self, version_id: str) -> None:
        super().__init__("there is no such version", version_id=version_id)


class ProjectWithoutProduction(FailedPrecondition):
    """Nothing is in production."""


CONSTRAINTS = {"versions_parent": lambda: VersionNotFound("")}


async def create(tx: Transaction, request: pb.CreateVersionRequest) -> pb.CreateVersionResponse:
    """Register a configuration as a v1 version."""
    project = await projects.lock(tx, request.project_id)
    row = await tx.only(
        _insert,
        **_given(tx, project, request.configuration),
        changelog=request.changelog,
        parent_version_id=request.parent_version_id or None,
    )
    await version_history.add(tx, row, "created", reason=request.changelog[:2000], by=row["created_by"], from_tag=None)
    version = wire(row)
    await outbox.record(tx, f"version:{version.id}", version)
    return pb.CreateVersionResponse(version=version)


async def found(tx: Transaction, project: Row, configuration: Struct) -> None:
    """Store the version that a project is born with, in production at once: nothing is there to measure it against."""
    changelog = "the configuration that the project began with"
    row = await tx.only(_found, **_given(tx, project, configuration), changelog=changelog, parent_version_id=None)
    for action, from_tag in (("created", None), ("promoted", "v1")):
        await version_history.add(tx, row, action, reason=changelog, by=row["created_by"], from_tag=from_tag)


async def get(tx: Transaction, version_id: str) -> Version:
    """Give one version that the caller may see."""
    row = await find(tx, version_id)
    if not _sees_all() and row["tag"] != "v2":
        raise VersionNotFound(version_id)
    return wire(row)


async def page(tx: Transaction, request: pb.ListVersionsRequest, page: Page) -> pb.ListVersionsResponse:
    """Give one page of what the caller may see, newest first."""
    await projects.find(tx, request.project_id)
    query = select(table).where(table.c.project_id == request.project_id).order_by(table.c.id.desc()).limit(page.limit)
    if request.tag:
        query = query.where(table.c.tag == _TAGS.word(request.tag))
    if not _sees_all():
        query = query.where(table.c.tag == "v2")
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListVersionsResponse(versions=[wire(row) for row in rows], next_page_token=token)


async def get_production(tx: Transaction, project_id: str) -> Version:
    """Give the version that is in production."""
    row = await tx.one(_production, project_id=project_id)
    if row is None:
        await projects.find(tx, project_id)
        raise ProjectWithoutProduction("nothing is in production yet", project_id=project_id)
    return wire(row)


async def digest(tx: Transaction, request: pb.HashConfigurationRequest) -> pb.HashConfigurationResponse:
    """Say which hash a configuration has in a project."""
    project = await projects.find(tx, request.project_id)
    given = configurations.read(request.configuration)
    found = configurations.digest(given, project["configuration_defaults"])
    return pb.HashConfigurationResponse(configuration_hash=found)


async def find(tx: Transaction, version_id: str) -> Row:
    """Give the row of a version."""
    row = await tx.one(_get, id=version_id)
    if row is None:
        raise VersionNotFound(version_id)
    return row


def wire(row: Row) -> Version:
    """Give a row's wire form."""
    version = Version(
        id=str(row["id"]),
        project_id=str(row["project_id"]),
        tag=_TAGS.number(row["tag"]),
        current=row["current"],
        configuration_hash=row["configuration_hash"],
        changelog=row["changelog"],
        parent_version_id=str(row["parent_version_id"] or ""),
        created_by=row["created_by"],
        promoted_by=row["promoted_by"] or "",
        promote_time=row["promote_time"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
    )
    version.configuration.update(row["configuration"])
    return version


def _given(tx: Transaction, project: Row, configuration: Struct) -> dict[str, Any]:
    values = configurations.read(configuration)
    return {
        "tenant_id": tx.tenant_id,
        "project_id": project["id"],
        "configuration": values,
        "configuration_hash": configurations.digest(values, project["configuration_defaults"]),
        "created_by": calls.caller().id,
    }


def _sees_all() -> bool:
    """Admins and services see all three zones; everybody else sees what was let into production."""
    caller = calls.caller()
    return bool(caller.service) or (caller.kind == "user" and caller.role >= Role.ROLE_ADMIN)
