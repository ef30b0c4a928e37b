"""Challenges of passkeys: random, stored as SHA-256, good once and for five minutes, whatever comes of their use."""

import hashlib
import secrets
from datetime import timedelta
from typing import Literal

from sqlalchemy import Column, DateTime, Interval, LargeBinary, MetaData, Table, Text, Uuid, delete, func, insert

from services.kit.db import Row, Statement, Transaction, param, params

LIFETIME = timedelta(minutes=5)
BYTES = 32

table = Table(
    "passkey_challenges",
    MetaData(),
    Column("challenge_hash", LargeBinary, primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("user_id", Uuid),
    Column("session_id", Uuid),
    Column("ticket_id", Uuid),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    implicit_returning=False,
)
_insert = Statement(
    insert(table).values(
        **params("challenge_hash purpose user_id session_id ticket_id"),
        expire_time=func.now() + param("lifetime", Interval()),
    )
)
_take = Statement(
    delete(table)
    .where(table.c.challenge_hash == param("digest"), table.c.purpose == param("purpose"))
    .returning(table.c.user_id, table.c.session_id, table.c.ticket_id, (table.c.expire_time > func.now()).label("good"))
)


async def create(tx: Transaction, purpose: Literal["register", "login"], **bound: object) -> bytes:
    """Store a challenge, bound to a person, a session or a ticket, and give it."""
    challenge = secrets.token_bytes(BYTES)
    await tx.run(_insert, challenge_hash=_digest(challenge), purpose=purpose, lifetime=LIFETIME, **bound)
    return challenge


async def take(tx: Transaction, purpose: Literal["register", "login"], challenge: bytes) -> Row | None:
    """Give what a challenge is bound to, and delete it; None when it is not ours, was used, or is too old."""
    row = await tx.one(_take, digest=_digest(challenge), purpose=purpose)
    return row if row is not None and row["good"] else None


def _digest(challenge: bytes) -> bytes:
    return hashlib.sha256(challenge).digest()
