"""Security events: who tried what from where, with what outcome. The service writes them and cannot read them.

What changed goes to the audit log as every other change does (outbox); these rows also hold what failed, and the
network address and program that it came from, which never leave this schema.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, MetaData, Table, Text, Uuid, insert
from sqlalchemy.dialects.postgresql import JSONB

from services.auth.sources import Source
from services.kit.db import Statement, Transaction, params

table = Table(
    "audit_logs",
    MetaData(),
    Column("tenant_id", Uuid, nullable=False),
    Column("user_id", Uuid),
    Column("action", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("details", JSONB, nullable=False),
    Column("ip_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
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
