"""Revocations: which access tokens count no more although their time is not over. Kept until the last of them is over.

They are written in the transaction that ends a session, a role or a tenant, and told to all who verify tokens when it
has committed (`broadcasts`).
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Column,
    DateTime,
    Interval,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.sql.elements import ColumnElement

from services.kit.clock import LEEWAY
from services.kit.db import Row, Statement, Transaction, param, params

LONGEST_LIFE = timedelta(seconds=600 + LEEWAY)
"""An access token cannot be older (settings.access_seconds is at most 600), clocks that differ included."""

table = Table(
    "revocations",
    MetaData(),
    Column("id", BigInteger),  # the database gives it
    Column("session_id", Uuid),
    Column("subject_id", Uuid),
    Column("target_tenant_id", Uuid),
    Column("least_version", BigInteger, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("forget_time", DateTime(timezone=True), nullable=False),
    Column("xid", Text, nullable=False),
    implicit_returning=False,
)
LIFE = {"life": LONGEST_LIFE}
"""Parameter of a statement with `of_each`."""
TOPIC = "revocations"
BEGINNING = "0"
_forget_time = func.clock_timestamp() + param("life", Interval())
_add = Statement(
    insert(table).values(
        **params("session_id subject_id target_tenant_id least_version"),
        forget_time=_forget_time,
    )
)
# What a running transaction will commit has an xid that is not below the horizon of any look made before.
_since = Statement(
    text(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon, r.* FROM (SELECT) AS look"
        " LEFT JOIN revocations r ON r.xid >= CAST(CAST(:horizon AS text) AS xid8) AND r.forget_time > now()"
    )
)


async def of_session(tx: Transaction, session_id: object) -> None:
    """Refuse the access tokens of a session, or of an agent's credential."""
    await _write(tx, session_id=session_id)


async def of_subject(tx: Transaction, subject_id: object, least_version: int) -> None:
    """Refuse the tokens of a person or agent that were made before its `token_version` became `least_version`."""
    await _write(tx, subject_id=subject_id, least_version=least_version)


async def of_tenant(tx: Transaction, tenant_id: object) -> None:
    """Refuse all tokens of a tenant."""
    await _write(tx, target_tenant_id=tenant_id)


def of_each(session_ids: ColumnElement[Any]) -> CTE:
    """Refuse the access tokens of sessions that a statement ends, as a part of it; `announce` follows."""
    ended = select(session_ids, literal(0, BigInteger()), _forget_time)
    columns = ["session_id", "least_version", "forget_time"]
    return insert(table).from_select(columns, ended, include_defaults=False).cte("told")


def announce(tx: Transaction) -> None:
    """Tell all who verify tokens, once the transaction has committed."""
    tx.on_commit(lambda: tx.database.tell(TOPIC))


async def since(tx: Transaction, horizon: str) -> tuple[str, list[Row]]:
    """Give what was committed since an earlier look, perhaps with some of what it saw, and the horizon for the next.

    Numbers and times do not tell: a transaction may commit long after another that began later.
    """
    rows = await tx.all(_since, horizon=horizon)
    return rows[0]["horizon"], [row for row in rows if row["id"] is not None]


async def _write(
    tx: Transaction,
    *,
    session_id: object = None,
    subject_id: object = None,
    target_tenant_id: object = None,
    least_version: int = 0,
) -> None:
    await tx.run(
        _add,
        session_id=session_id,
        subject_id=subject_id,
        target_tenant_id=target_tenant_id,
        least_version=least_version,
        **LIFE,
    )
    announce(tx)
