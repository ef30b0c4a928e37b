"""Types of badges: what a tenant gives, how many a holder may pass on, and whether twice. They do not change."""

from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select

from services.kit import faults, outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from triptych.auth.v1 import badge_pb2, badge_service_pb2 as pb

table = Table(
    "badge_types",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("slug", Text, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("shares", Integer, nullable=False),
    Column("once", Boolean, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_insert = Statement(
    insert(table).values(**params("tenant_id slug display_name description shares once")).returning(*table.c)
)
_get = Statement(select(table).where(table.c.slug == param("slug")))


class BadgeTypeNotFound(faults.NotFound):
    """No such type of badge in the caller's tenant."""

    def __init__(self, slug: str) -> None:
        super().__init__("there is no such type of badge", badge_type=slug)


class BadgeTypeTaken(faults.AlreadyExists):
    """There is a type of badge with this slug."""


CONSTRAINTS = {"badge_types_slug": lambda: BadgeTypeTaken("a type of badge has this slug; choose another")}


async def create(tx: Transaction, request: pb.CreateBadgeTypeRequest) -> pb.CreateBadgeTypeResponse:
    """Store a type of badge."""
    given = request.badge_type
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        slug=given.slug,
        display_name=given.display_name,
        description=given.description,
        shares=given.shares,
        once=given.once,
    )
    badge_type = _wire(row)
    await outbox.record(tx, f"badge_type:{badge_type.slug}", badge_type)
    return pb.CreateBadgeTypeResponse(badge_type=badge_type)


async def find(tx: Transaction, slug: str) -> Row:
    """Give the row of a type."""
    row = await tx.one(_get, slug=slug)
    if row is None:
        raise BadgeTypeNotFound(slug)
    return row


async def page(tx: Transaction, page: Page) -> pb.ListBadgeTypesResponse:
    """Give one page, by slug."""
    query = select(table).order_by(table.c.slug).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.slug > page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["slug"],))
    return pb.ListBadgeTypesResponse(badge_types=[_wire(row) for row in rows], next_page_token=token)


def _wire(row: Row) -> badge_pb2.BadgeType:
    return badge_pb2.BadgeType(
        slug=row["slug"],
        display_name=row["display_name"],
        description=row["description"],
        shares=row["shares"],
        once=row["once"],
        create_time=row["create_time"],
    )
