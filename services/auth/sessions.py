"""Sessions: one row for each login, with the family of its refresh tokens. What ended stays ended.

A refresh is one statement that finds, checks and rotates, so that neither a second refresh nor an end can come
between. The token before the newest leads to the newest again for a few seconds; any other old one ends the session,
because two parties hold it.
"""

from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    and_,
    case,
    func,
    insert,
    or_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.auth import events, memberships, roles, users
from services.auth.settings import AuthSettings
from services.auth.sources import Source
from services.auth.tokens import Minting, RefreshToken
from services.kit import calls, faults, outbox
from services.kit.db import Row, Statement, Transaction, param, params
from triptych.auth.v1 import auth_service_pb2 as pb

table = Table(
    "sessions",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("refresh_token_hash", LargeBinary, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("device_info", JSONB, nullable=False),
    Column("rotate_time", DateTime(timezone=True), nullable=False),
    Column("last_use_time", DateTime(timezone=True), nullable=False),
    Column("idle_expire_time", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("revoke_time", DateTime(timezone=True)),
    Column("revoke_reason", Text),
)
_idle = func.now() + param("idle", Interval())
_generation = param("given", Integer())
_family = (table.c.refresh_token_hash == param("digest")) & table.c.revoke_time.is_(None)
_newest = table.c.generation == _generation
_before_newest = table.c.generation == _generation + 1
_recent = table.c.rotate_time > func.now() - param("grace", Interval())
_insert = Statement(
    insert(table)
    .values(
        **params("tenant_id user_id refresh_token_hash device_info"),
        generation=0,
        idle_expire_time=_idle,
        expire_time=func.now() + param("absolute", Interval()),
    )
    .returning(*table.c)
)
_rotate = Statement(
    update(table)
    .where(
        _family,
        or_(_newest, and_(_before_newest, _recent)),
        table.c.idle_expire_time > func.now(),
        table.c.expire_time > func.now(),
        users.table.c.id == table.c.user_id,
        users.table.c.verified,
        users.ACTIVE,
        memberships.table.c.user_id == table.c.user_id,
        memberships.table.c.tenant_id == table.c.tenant_id,
        memberships.LIVE,
    )
    .values(
        generation=_generation + 1,
        rotate_time=case((_newest, func.now()), else_=table.c.rotate_time),
        last_use_time=func.now(),
        idle_expire_time=case((_newest, func.least(_idle, table.c.expire_time)), else_=table.c.idle_expire_time),
    )
    .returning(
        table.c.id,
        table.c.tenant_id,
        table.c.user_id,
        table.c.generation,
        table.c.idle_expire_time,
        memberships.table.c.role,
    )
)
_revoke_reused = Statement(
    update(table)
    .where(_family, or_(table.c.generation > _generation + 1, and_(_before_newest, ~_recent)))
    .values(revoke_time=func.now(), revoke_reason="reuse")
    .returning(table.c.id, table.c.user_id)
)
_end = Statement(
    update(table)
    .where(table.c.id == param("session_id"), table.c.user_id == param("person_id"), table.c.revoke_time.is_(None))
    .values(revoke_time=func.now(), revoke_reason="logout")
    .returning(table.c.id)
)


class SessionInvalid(faults.Unauthenticated):
    """The refresh token is unknown, used, expired or revoked; which of them is not said."""

    def __init__(self) -> None:
        super().__init__("the session has ended; log in again")


async def create(
    tx: Transaction, user_id: object, refresh: RefreshToken, settings: AuthSettings, device_info: dict[str, str]
) -> Row:
    """Begin a session in the transaction's tenant."""
    return await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        user_id=user_id,
        refresh_token_hash=refresh.digest,
        device_info=device_info,
        idle=settings.refresh_idle,
        absolute=settings.refresh_absolute,
    )


async def refresh(
    tx: Transaction, given: RefreshToken, settings: AuthSettings, minting: Minting
) -> pb.RefreshResponse | None:
    """Give new tokens for the newest token, or for the one just before it; None when there are none to give."""
    row = await tx.one(
        _rotate,
        digest=given.digest,
        given=given.generation,
        grace=settings.refresh_grace,
        idle=settings.refresh_idle,
    )
    if row is None:
        return None
    actor = ("user", str(row["user_id"]))
    await outbox.record(tx, f"session:{row['id']}", {"generation": row["generation"]}, actor=actor)
    return pb.RefreshResponse(tokens=minting.pair(row, roles.wire(row["role"]), given.successor))


async def revoke_reused(tx: Transaction, given: RefreshToken, settings: AuthSettings, source: Source) -> None:
    """End the session of a token that was used long ago: somebody else may hold a newer one."""
    row = await tx.one(_revoke_reused, digest=given.digest, given=given.generation, grace=settings.refresh_grace)
    if row is None:
        return
    session, failure = f"session:{row['id']}", {"problem": "reuse", "generation": given.generation}
    await events.write(tx, "auth.session.revoke", session, source=source, user_id=row["user_id"], failure=failure)
    await outbox.record(tx, session, failure, action="auth.session.revoke", actor=("service", "auth"))


async def end(tx: Transaction, source: Source) -> pb.LogoutResponse:
    """End the caller's session; one that ended stays as it is."""
    caller = calls.caller()
    session = f"session:{caller.session_id}"
    if await tx.one(_end, session_id=caller.session_id, person_id=caller.id) is not None:
        await events.write(tx, "auth.session.end", session, source=source, user_id=caller.id)
    await outbox.record(tx, session)
    return pb.LogoutResponse()
