"""Memberships: which person has which role in which tenant. A tenant sees people through these rows only."""

from sqlalchemy import Column, DateTime, MetaData, Table, Text, Uuid, func, insert, select

from services.auth import tenants
from services.kit.db import Row, Statement, Transaction, param, params

table = Table(
    "memberships",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("user_id", Uuid, primary_key=True),
    Column("role", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("remove_time", DateTime(timezone=True)),
)
_insert = Statement(insert(table).values(**params("tenant_id user_id role")).returning(table.c.user_id))
LIVE = (
    (table.c.remove_time.is_(None)) & (tenants.table.c.id == table.c.tenant_id) & tenants.table.c.delete_time.is_(None)
)
"""A membership counts that was not removed, in a tenant that was not deleted."""
_find = Statement(select(table.c.role).where(table.c.user_id == param("user_id"), LIVE))


async def add(tx: Transaction, user_id: object, role: str) -> None:
    """Make somebody a member of the transaction's tenant."""
    await tx.only(_insert, tenant_id=tx.tenant_id, user_id=user_id, role=role)


async def find(tx: Transaction, user_id: object) -> Row | None:
    """Give a person's live membership of the transaction's tenant."""
    return await tx.one(_find, user_id=user_id)
