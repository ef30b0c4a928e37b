"""Activities: what happened in a session, from where and by which program. Kept for 90 days, never changed."""

from sqlalchemy import CTE, Column, DateTime, MetaData, Table, Text, Uuid, func, insert, literal, select
from sqlalchemy.sql.elements import ColumnElement

from services.auth.sources import Source
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from triptych.auth.v1 import session_pb2, session_service_pb2 as pb

table = Table(
    "session_activities",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("session_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("ip_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    implicit_returning=False,
)
_insert = Statement(insert(table).values(**params("tenant_id session_id kind ip_address user_agent")))


async def write(tx: Transaction, session_id: object, kind: str, source: Source) -> None:
    """Write one activity of a session of the transaction's tenant."""
    await tx.run(_insert, tenant_id=tx.tenant_id, session_id=session_id, kind=kind, **origin(source))


def of(sessions: CTE, kind: str | ColumnElement[str]) -> CTE:
    """Write an activity for each session that a statement has touched, as a part of it; see `origin`."""
    from_where = param("ip_address", Text()), param("user_agent", Text())
    named = literal(kind, Text()) if isinstance(kind, str) else kind
    touched = select(sessions.c.tenant_id, sessions.c.id, named, *from_where)
    columns = ["tenant_id", "session_id", "kind", "ip_address", "user_agent"]
    return insert(table).from_select(columns, touched, include_defaults=False).cte("noted")


def origin(source: Source) -> dict[str, str]:
    """Parameters of a statement that writes activities."""
    return {"ip_address": source.address, "user_agent": source.user_agent}


async def page(tx: Transaction, session_id: str, page: Page) -> pb.ListSessionActivitiesResponse:
    """Give one page of a session's activities, newest first."""
    query = select(table).where(table.c.session_id == session_id).order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListSessionActivitiesResponse(activities=[_wire(row) for row in rows], next_page_token=token)


def _wire(row: Row) -> session_pb2.SessionActivity:
    return session_pb2.SessionActivity(
        id=str(row["id"]),
        session_id=str(row["session_id"]),
        kind=row["kind"],
        ip_address=row["ip_address"],
        user_agent=row["user_agent"],
        create_time=row["create_time"],
    )
