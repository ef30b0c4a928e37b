"""Artifacts: the row, its wire form, its queries and its faults. The bytes are in objects.py's store.

A row is written after its object is durable, so a row without an object is damage; an object without a row is a crash
or a repeated upload, and is swept. Rows are never changed; they are deleted when they have expired, and only then.
"""

from collections.abc import AsyncIterator
from datetime import timedelta

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Interval,
    MetaData,
    Table,
    Text,
    Uuid,
    delete,
    func,
    insert,
    or_,
    select,
    text,
)

from services.governance.production import analyses
from services.governance.production.objects import Stored
from services.kit import calls, outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import InvalidArgument, NotFound
from services.kit.paging import Page
from services.kit.words import Words
from triptych.production.v1 import artifact_pb2, artifact_service_pb2 as pb

TYPES = Words(artifact_pb2.ArtifactType)

table = Table(
    "artifacts",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("analysis_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_by", Uuid, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expire_time", DateTime(timezone=True)),
)
_live = or_(table.c.expire_time.is_(None), table.c.expire_time > func.now())
_new_id = Statement(text("SELECT uuidv7() AS id"))
_insert = Statement(
    insert(table)
    .values(
        **params("id tenant_id analysis_id type name content_type sha256 size_bytes created_by"),
        expire_time=func.now() + param("lifetime", Interval),
    )
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id"), _live))
_delete_expired = Statement(delete(table).where(table.c.expire_time < func.now()).returning(*table.c))
_known = Statement(select(table.c.id).where(table.c.id == func.any(param("ids"))))


class ArtifactNotFound(NotFound):
    """No such artifact in the caller's tenant."""

    def __init__(self, artifact_id: str) -> None:
        super().__init__("there is no such artifact", artifact_id=artifact_id)


class ArtifactStreamInvalid(InvalidArgument):
    """The stream does not begin with a header, or has a second one."""


async def begin(requests: AsyncIterator[pb.UploadArtifactRequest]) -> pb.ArtifactHeader:
    """Read the header, which is the first message of an upload."""
    async for request in requests:
        if request.WhichOneof("content") != "header":
            break
        return request.header
    raise ArtifactStreamInvalid("the first message must be the header")


async def chunks(requests: AsyncIterator[pb.UploadArtifactRequest]) -> AsyncIterator[bytes]:
    """Read the bytes, which are the rest of an upload."""
    async for request in requests:
        if request.WhichOneof("content") != "chunk":
            raise ArtifactStreamInvalid("a second header; send one header and then chunks")
        yield request.chunk


async def reserve(tx: Transaction, analysis_id: str) -> str:
    """Give the id of a new artifact, unless the tenant has no such analysis."""
    await analyses.check(tx, analysis_id)
    return str((await tx.only(_new_id))["id"])


async def create(
    tx: Transaction, header: pb.ArtifactHeader, *, stored: Stored, lifetime: timedelta | None
) -> pb.UploadArtifactResponse:
    """Store the row of an object that is durable."""
    given = header.artifact
    row = await tx.only(
        _insert,
        id=stored.artifact_id,
        tenant_id=tx.tenant_id,
        analysis_id=given.analysis_id,
        type=TYPES.word(given.type),
        name=given.name,
        content_type=given.content_type,
        sha256=stored.sha256,
        size_bytes=stored.size,
        created_by=calls.caller().id,
        lifetime=lifetime,
    )
    artifact = _wire(row)
    await outbox.record(tx, f"artifact:{artifact.id}", artifact)
    return pb.UploadArtifactResponse(artifact=artifact)


async def get(tx: Transaction, artifact_id: str) -> artifact_pb2.Artifact:
    """Give one artifact."""
    row = await tx.one(_get, id=artifact_id)
    if row is None:
        raise ArtifactNotFound(artifact_id)
    return _wire(row)


async def page(tx: Transaction, request: pb.ListArtifactsRequest, page: Page) -> pb.ListArtifactsResponse:
    """Give one page of an analysis's artifacts, oldest first."""
    await analyses.check(tx, request.analysis_id)
    query = (
        select(table).where(table.c.analysis_id == request.analysis_id, _live).order_by(table.c.id).limit(page.limit)
    )
    if page.after is not None:
        query = query.where(table.c.id > page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListArtifactsResponse(artifacts=[_wire(row) for row in rows], next_page_token=token)


async def keep(tx: Transaction, artifact_ids: list[str]) -> set[str]:
    """Delete the tenant's expired rows, and say which of these ids still have one."""
    for row in await tx.all(_delete_expired):
        await outbox.record(
            tx,
            f"artifact:{row['id']}",
            {"analysis_id": str(row["analysis_id"]), "sha256": row["sha256"]},
            action="production.artifact.expire",
            actor=("service", "production"),
        )
    return {str(row["id"]) for row in await tx.all(_known, ids=artifact_ids)}


def _wire(row: Row) -> artifact_pb2.Artifact:
    return artifact_pb2.Artifact(
        id=str(row["id"]),
        analysis_id=str(row["analysis_id"]),
        type=TYPES.number(row["type"]),
        name=row["name"],
        content_type=row["content_type"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        created_by=str(row["created_by"]),
        create_time=row["create_time"],
    )
