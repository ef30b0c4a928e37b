"""Known devices: whoever logged in with one before has a counter of failures of their own there.

So an address that strangers lock stays open to its owner (OWASP, "device cookies"). A device that fails too often in a
row is a stranger like any other until its owner logs in with it again. It proves nothing else, and no second factor.
"""

import hashlib
import re
import secrets
from datetime import timedelta

from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Table,
    Uuid,
    delete,
    func,
    text,
    update,
)

from services.kit.db import Statement, Transaction, param

LIFETIME = timedelta(days=365)
MOST = 20
"""Devices of one person; the one that was used least lately goes."""
_TOKEN = re.compile(r"trd_[A-Za-z0-9_-]{43}")

table = Table(
    "devices",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("token_hash", LargeBinary, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("last_use_time", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
)
_known = (
    (table.c.token_hash == param("digest"))
    & (table.c.user_id == param("person_id", Uuid()))
    & (table.c.expire_time > func.now())
)
_reserve = Statement(
    update(table)
    .where(_known, table.c.failures < param("limit", Integer()))
    .values(failures=table.c.failures + 1)
    .returning(table.c.failures)
)
_renew = Statement(update(table).where(_known).values(failures=0, last_use_time=func.now()).returning(table.c.id))
# The statement does not see the row that it makes: one place is left for it.
_create = Statement(
    text(
        "WITH made AS (INSERT INTO devices (user_id, token_hash, expire_time)"
        " VALUES (CAST(:person_id AS uuid), :digest, now() + CAST(:life AS interval)))"
        " DELETE FROM devices WHERE id IN (SELECT id FROM devices WHERE user_id = CAST(:person_id AS uuid)"
        f" ORDER BY last_use_time DESC OFFSET {MOST - 1})"
    ).bindparams(param("life", Interval()), param("digest", LargeBinary()), param("person_id", Uuid()))
)
_forget = Statement(delete(table).where(table.c.user_id == param("person_id")))


async def reserve(tx: Transaction, user_id: object, token: str, *, limit: int) -> int:
    """Count an attempt from a person's known device and say how many in a row it makes; 0 when it is not known."""
    digest = _digest(token)
    row = None if digest is None else await tx.one(_reserve, digest=digest, person_id=user_id, limit=limit)
    return 0 if row is None else int(row["failures"])


async def renew(tx: Transaction, user_id: object, token: str) -> bool:
    """Forget the failures of a device after a success; False when the device is none of this person's."""
    digest = _digest(token)
    return digest is not None and await tx.one(_renew, digest=digest, person_id=user_id) is not None


async def welcome(tx: Transaction, user_id: object, token: str) -> str:
    """Know the device from now on, after a success, and give the token that it is to keep."""
    if await renew(tx, user_id, token):
        return token
    made = f"trd_{secrets.token_urlsafe(32)}"
    await tx.run(_create, person_id=user_id, digest=_digest(made), life=LIFETIME)
    return made


async def forget(tx: Transaction, user_id: object) -> None:
    """Know no device of this person any more, because their password may have been known to others."""
    await tx.run(_forget, person_id=user_id)


def _digest(token: str) -> bytes | None:
    return hashlib.sha256(token.encode()).digest() if _TOKEN.fullmatch(token) else None
