"""Badges: the row, its wire form, its line of parents and children, its end. `awards` makes them.

The database lets a badge have a parent of its own tenant and type, one step higher, and never another afterwards: a
line has no circle and 64 steps at most. Revoking takes all that was passed on along, in one statement.
"""

from sqlalchemy import Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select, text
from sqlalchemy.dialects.postgresql import JSONB

from services.kit import faults, outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page, fitting
from triptych.auth.v1 import badge_pb2, badge_service_pb2 as pb

DEEPEST = 63
"""Steps below the first badge of a line, as the table's constraint has it."""
LONGEST = 1000
"""Badges of a line that are shown."""

table = Table(
    "badges",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("badge_type", Text, nullable=False),
    Column("parent_id", Uuid),
    Column("depth", Integer, nullable=False),
    Column("awarded_by", Uuid, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("revoke_time", DateTime(timezone=True)),
    Column("revoke_reason", Text, nullable=False, server_default=""),
)
_insert = Statement(
    insert(table)
    .values(**params("tenant_id user_id badge_type parent_id depth awarded_by metadata"))
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
# Downwards it goes step by step, and stops when the page is full: nearest first, and no wide line is read whole.
_trace = Statement(
    text(
        """
        WITH RECURSIVE above AS (
            SELECT b.*, 0 AS step FROM badges b WHERE b.id = CAST(:id AS uuid)
            UNION ALL SELECT p.*, above.step - 1 FROM above JOIN badges p ON p.id = above.parent_id),
        below AS (
            SELECT b.*, 0 AS step FROM badges b WHERE b.id = CAST(:id AS uuid)
            UNION ALL SELECT c.*, below.step + 1 FROM below JOIN badges c ON c.parent_id = below.id)
        SELECT * FROM above WHERE step < 0
        UNION ALL (SELECT * FROM below LIMIT :most)
        """
    ).bindparams(param("most", Integer()))
)
_revoke = Statement(
    text(
        """
        WITH RECURSIVE line AS (
            SELECT id FROM badges WHERE id = CAST(:id AS uuid)
            UNION ALL SELECT c.id FROM line JOIN badges c ON c.parent_id = line.id)
        UPDATE badges SET revoke_time = now(), revoke_reason = :reason
        FROM line WHERE badges.id = line.id AND badges.revoke_time IS NULL
        """
    )
)
_line = "pg_advisory_xact_lock{}(hashtextextended('badges:' || :tenant_id || ':' || :badge_type, 0))"
_join = Statement(text(f"SELECT {_line.format('_shared')}"))
_hold = Statement(text(f"SELECT {_line.format('')}"))


class BadgeNotFound(faults.NotFound):
    """No such badge in the caller's tenant."""

    def __init__(self, badge_id: str) -> None:
        super().__init__("there is no such badge", badge_id=badge_id)


class BadgeHeld(faults.AlreadyExists):
    """The member has a live badge of this type."""


CONSTRAINTS = {"badges_held": lambda: BadgeHeld("the member has a live badge of this type")}


async def store(
    tx: Transaction, request: pb.AwardBadgeRequest, parent: Row | None, *, by: str, metadata: dict[str, object]
) -> Row:
    """Store a badge, below its parent or as the first of a line."""
    return await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        user_id=request.user_id,
        badge_type=request.badge_type,
        parent_id=parent["id"] if parent is not None else None,
        depth=parent["depth"] + 1 if parent is not None else 0,
        awarded_by=by,
        metadata=metadata,
    )


async def join(tx: Transaction, badge_type: str) -> None:
    """Keep lines of this type whole until the transaction ends: what is added now is not missed by a revocation."""
    await tx.one(_join, tenant_id=tx.tenant_id, badge_type=badge_type)


async def get(tx: Transaction, badge_id: str) -> badge_pb2.Badge:
    """Give one badge."""
    return wire(await _row(tx, badge_id))


async def page(tx: Transaction, request: pb.ListBadgesRequest, page: Page) -> pb.ListBadgesResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if request.user_id:
        query = query.where(table.c.user_id == request.user_id)
    if request.badge_type:
        query = query.where(table.c.badge_type == request.badge_type)
    if not request.show_revoked:
        query = query.where(table.c.revoke_time.is_(None))
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListBadgesResponse(badges=[wire(row) for row in rows], next_page_token=token)


async def trace(tx: Transaction, badge_id: str) -> pb.GetBadgeLineageResponse:
    """Give the line of a badge, as far as one answer can hold it; what is above is never left out."""
    rows = await tx.all(_trace, id=badge_id, most=LONGEST + 1)
    if not rows:
        raise BadgeNotFound(badge_id)
    shown = rows[: min(LONGEST, fitting(rows))]
    answer = pb.GetBadgeLineageResponse(truncated=len(shown) < len(rows))
    for row in sorted(shown, key=lambda row: (row["step"], row["create_time"], row["id"])):
        answer.lineage.add(badge=wire(row), depth=row["step"])
    return answer


async def revoke(tx: Transaction, request: pb.RevokeBadgeRequest) -> pb.RevokeBadgeResponse:
    """Revoke a badge and all that were passed on from it; one that was revoked stays as it is."""
    row = await _row(tx, request.badge_id)
    await tx.one(_hold, tenant_id=tx.tenant_id, badge_type=row["badge_type"])
    revoked = await tx.run(_revoke, id=request.badge_id, reason=request.reason)
    badge = await get(tx, request.badge_id)
    await outbox.record(tx, f"badge:{badge.id}", {"reason": request.reason, "revoked": revoked})
    return pb.RevokeBadgeResponse(badge=badge, revoked=revoked)


def wire(row: Row) -> badge_pb2.Badge:
    """Give a badge as its tenant sees it."""
    badge = badge_pb2.Badge(
        id=str(row["id"]),
        user_id=str(row["user_id"]),
        badge_type=row["badge_type"],
        parent_id=str(row["parent_id"] or ""),
        awarded_by=str(row["awarded_by"]),
        create_time=row["create_time"],
        revoke_time=row["revoke_time"],
        revoke_reason=row["revoke_reason"],
    )
    badge.metadata.update(row["metadata"])
    return badge


async def _row(tx: Transaction, badge_id: str) -> Row:
    row = await tx.one(_get, id=badge_id)
    if row is None:
        raise BadgeNotFound(badge_id)
    return row
