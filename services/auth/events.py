"""Security events: who tried what from where, with what outcome. Once written they are not changed.

What changed goes to the audit log as every other change does (outbox); these rows also hold what failed, and the
network address and program that it came from, which never leave this schema.
"""

from collections.abc import Mapping
from datetime import UTC
from typing import Any

from sqlalchemy import Column, DateTime, MetaData, Table, Text, Uuid, func, insert, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.elements import ColumnElement

from services.auth.sources import Source
from services.auth.words import EVENT_STATUSES
from services.kit import calls, faults
from services.kit.db import Row, Statement, Transaction, params
from services.kit.paging import Page
from triptych.auth.v1 import security_event_pb2, security_event_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

table = Table(
    "audit_logs",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("user_id", Uuid),
    Column("action", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("details", JSONB, nullable=False),
    Column("ip_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    implicit_returning=False,
)
_insert = Statement(
    insert(table).values(**params("tenant_id user_id action resource status details ip_address user_agent"))
)


async def write(
    tx: Transaction,
    action: str,
    resource: str,
    *,
    source: Source,
    user_id: object = None,
    failure: Mapping[str, Any] | None = None,
) -> None:
    """Write one event of the transaction's tenant; `failure` says what failed."""
    await tx.run(
        _insert,
        tenant_id=tx.tenant_id,
        user_id=user_id,
        action=action,
        resource=resource,
        status="success" if failure is None else "failure",
        details=dict(failure or {}),
        ip_address=source.address,
        user_agent=source.user_agent,
    )


async def page(tx: Transaction, request: pb.ListSecurityEventsRequest, page: Page) -> pb.ListSecurityEventsResponse:
    """Give one page of the tenant's events, newest first; to who is no admin only their own."""
    query = select(table).where(*_filters(request)).order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListSecurityEventsResponse(events=[_wire(row) for row in rows], next_page_token=token)


def _filters(request: pb.ListSecurityEventsRequest) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if user_id := _whose(request.user_id):
        found.append(table.c.user_id == user_id)
    if request.action.endswith("*"):
        found.append(func.starts_with(table.c.action, request.action[:-1]))
    elif request.action:
        found.append(table.c.action == request.action)
    if request.status:
        found.append(table.c.status == EVENT_STATUSES.word(request.status))
    if request.ip_address:
        found.append(table.c.ip_address == request.ip_address)
    if request.HasField("start_time"):
        found.append(table.c.create_time >= request.start_time.ToDatetime(UTC))
    if request.HasField("end_time"):
        found.append(table.c.create_time < request.end_time.ToDatetime(UTC))
    return found


def _whose(user_id: str) -> str:
    """Give the person whose events are shown; empty: everybody's, for admins."""
    caller = calls.caller()
    if caller.role >= Role.ROLE_ADMIN:
        return user_id
    if user_id not in ("", caller.id):
        raise faults.CallerNotPermitted("only an admin sees other people's events", permission="security_events.list")
    return caller.id


def _wire(row: Row) -> security_event_pb2.SecurityEvent:
    event = security_event_pb2.SecurityEvent(
        id=str(row["id"]),
        user_id=str(row["user_id"] or ""),
        action=row["action"],
        resource=row["resource"],
        status=EVENT_STATUSES.number(row["status"]),
        ip_address=row["ip_address"],
        user_agent=row["user_agent"],
        create_time=row["create_time"],
    )
    event.details.update(row["details"])
    return event
