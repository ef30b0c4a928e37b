"""Memberships: which person has which role in which tenant. A tenant sees people through these rows only.

Who takes an admin away (a role, a membership, an account) calls `spare` first: it lets one at a time through, and not
the last.
"""

from sqlalchemy import (
    CTE,
    BigInteger,
    Column,
    DateTime,
    FromClause,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from services.auth import tenants
from services.kit import faults
from services.kit.db import Row, Statement, Transaction, param, params

table = Table(
    "memberships",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("user_id", Uuid, primary_key=True),
    Column("role", Text, nullable=False),
    Column("tier", SmallInteger, nullable=False, server_default="0"),
    Column("rank", Integer),
    Column("place", BigInteger),  # the rank, or the last place of all; the database keeps it
    Column("activity_score", Numeric(18, 6), nullable=False, server_default="0"),
    Column("conviction_score", Numeric(18, 6), nullable=False, server_default="0"),
    Column("metadata", JSONB, nullable=False, server_default="{}"),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("last_seen_time", DateTime(timezone=True)),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("remove_time", DateTime(timezone=True)),
    Column("remove_reason", Text, nullable=False, server_default=""),
)
# Who was removed comes back to the same row, with what they earned, and under the new role.
_insert = insert(table).values(**params("tenant_id user_id role"))
_add = Statement(
    _insert.on_conflict_do_update(
        index_elements=["tenant_id", "user_id"],
        set_={
            "role": _insert.excluded.role,
            "revision": table.c.revision + 1,
            "create_time": func.now(),
            "update_time": func.now(),
            "remove_time": None,
            "remove_reason": "",
        },
        where=table.c.remove_time.is_not(None),
    ).returning(table.c.user_id)
)
LIVE = (
    (table.c.remove_time.is_(None)) & (tenants.table.c.id == table.c.tenant_id) & tenants.table.c.delete_time.is_(None)
)
"""A membership counts that was not removed, in a tenant that was not deleted."""
_find = Statement(select(table.c.role).where(table.c.user_id == param("user_id"), LIVE))
# Row locks would not do: the other admins' rows, and other tenants' rows, are not this transaction's to lock.
_hold = Statement(
    text(
        "SELECT pg_advisory_xact_lock(hashtextextended('admins:' || t.tenant_id::text, 0)) FROM ("
        " SELECT tenant_id FROM tenants_of(CAST(:user_id AS uuid))"
        " WHERE role = 'admin' AND CAST(:tenant_id AS uuid) IS NULL"
        " UNION ALL SELECT CAST(:tenant_id AS uuid) WHERE CAST(:tenant_id AS uuid) IS NOT NULL ORDER BY 1) t"
    )
)
_alone = Statement(
    text(
        "SELECT t FROM tenants_led_alone(CAST(:user_id AS uuid)) t"
        " WHERE CAST(:tenant_id AS uuid) IS NULL OR t = CAST(:tenant_id AS uuid) LIMIT 1"
    )
)
_this_hour = func.date_trunc("hour", func.now())


class LastAdmin(faults.FailedPrecondition):
    """A tenant would be left without an admin who can log in."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(
            "the tenant would be left without an admin who can log in; make another one first", tenant_id=tenant_id
        )


async def add(tx: Transaction, user_id: object, role: str) -> bool:
    """Make somebody a member of the transaction's tenant; False when they are one, and keep their role."""
    return await tx.one(_add, tenant_id=tx.tenant_id, user_id=user_id, role=role) is not None


async def find(tx: Transaction, user_id: object) -> Row | None:
    """Give a person's live membership of the transaction's tenant."""
    return await tx.one(_find, user_id=user_id)


async def hold(tx: Transaction, user_id: object, tenant_id: str | None = None) -> None:
    """Let nobody else take an admin away from this tenant, or from those that the person leads, until the end.

    Before any row is locked, or two of them wait for each other.
    """
    await tx.all(_hold, user_id=user_id, tenant_id=tenant_id)


async def spare(tx: Transaction, user_id: object, tenant_id: str | None = None) -> None:
    """Raise LastAdmin when this tenant, or any, would have no admin left without this person; hold it as well."""
    await hold(tx, user_id, tenant_id)
    row = await tx.one(_alone, user_id=user_id, tenant_id=tenant_id)
    if row is not None:
        raise LastAdmin(str(row["t"]))


def seen(sessions: FromClause) -> CTE:
    """Note, as part of a statement, that the people of these sessions (tenant_id, user_id) were seen in this hour.

    It waits for nobody: whoever changes the membership at this moment is right, and the next refresh notes it.
    """
    due = (
        select(table.c.tenant_id, table.c.user_id)
        .where(
            tuple_(table.c.tenant_id, table.c.user_id).in_(select(sessions.c.tenant_id, sessions.c.user_id)),
            or_(table.c.last_seen_time.is_(None), table.c.last_seen_time < _this_hour),
        )
        .with_for_update(skip_locked=True, key_share=True)
    )
    return (
        update(table)
        .where(tuple_(table.c.tenant_id, table.c.user_id).in_(due))
        .values(last_seen_time=_this_hour)
        .cte("seen")
    )
