"""Endings of sessions: by their owner, by an admin, by the use of an old refresh token. What ended stays ended.

One statement ends a session, notes that it did, and revokes its access tokens and those of the sessions that follow it
in other tenants (`switches`): they are refused everywhere within a second.
"""

from sqlalchemy import Text, Uuid, func, or_, select, union_all, update
from sqlalchemy.sql.elements import ColumnElement

from services.auth import activities, events, revocations, sessions
from services.auth.sessions import table
from services.auth.settings import AuthSettings
from services.auth.sources import Source
from services.auth.tokens import RefreshToken
from services.kit import calls, outbox
from services.kit.db import Row, Statement, Transaction, param
from triptych.auth.v1 import auth_service_pb2 as pb, session_service_pb2 as session_pb


def _ending(which: ColumnElement[bool]) -> Statement:
    ended = (
        update(table)
        .where(which, table.c.revoke_time.is_(None))
        .values(revoke_time=func.now(), revoke_reason=param("reason", Text()))
        .returning(table.c.id, table.c.tenant_id, table.c.user_id)
        .cte("ended")
    )
    all_ended = select(func.array_agg(ended.c.id)).scalar_subquery()
    followers = func.sessions_following(all_ended).column_valued("follower")
    refused = union_all(select(ended.c.id), select(followers)).subquery("refused")
    return Statement(select(ended).add_cte(activities.of(ended, "end"), revocations.of_each(refused.c.id)))


_spared = param("spared", Uuid())
"""A session that stays, and with it those that it follows: it would end with them."""
_one = _ending(table.c.id == param("session_id"))
_all = _ending(
    (table.c.user_id == param("person_id"))
    & or_(_spared.is_(None), table.c.id.not_in(select(func.sessions_before(_spared).column_valued("before"))))
)
_reused = _ending(sessions.REUSED)


async def log_out(tx: Transaction, source: Source) -> pb.LogoutResponse:
    """End the caller's session; one that ended stays as it is."""
    caller = calls.caller()
    session = f"session:{caller.session_id}"
    if await _end(tx, _one, source, reason="logout", session_id=caller.session_id):
        await events.write(tx, "auth.session.end", session, source=source, user_id=caller.id)
    await outbox.record(tx, session)
    return pb.LogoutResponse()


async def end_reused(tx: Transaction, given: RefreshToken, settings: AuthSettings, source: Source) -> None:
    """End the session of a token that was used long ago: somebody else may hold a newer one."""
    of_token = {"digest": given.digest, "given": given.generation, "grace": settings.refresh_grace}
    for row in await _end(tx, _reused, source, reason="reuse", **of_token):
        session, failure = f"session:{row['id']}", {"problem": "reuse", "generation": given.generation}
        await events.write(tx, "auth.session.revoke", session, source=source, user_id=row["user_id"], failure=failure)
        await outbox.record(tx, session, failure, action="auth.session.revoke", actor=("service", "auth"))


async def revoke(
    tx: Transaction, request: session_pb.RevokeSessionRequest, source: Source
) -> session_pb.RevokeSessionResponse:
    """End a session of the caller, or for an admin anybody's in the tenant."""
    found = await sessions.visible(tx, request.session_id)
    session, owner = f"session:{found['id']}", str(found["user_id"])
    if await _end(tx, _one, source, reason="revoked", session_id=found["id"]):
        await events.write(tx, "auth.session.revoke", session, source=source, user_id=calls.caller().id)
    await outbox.record(tx, session, {"user_id": owner})
    return session_pb.RevokeSessionResponse(session=sessions.wire(await sessions.visible(tx, request.session_id)))


async def revoke_all(
    tx: Transaction, request: session_pb.RevokeAllSessionsRequest, source: Source
) -> session_pb.RevokeAllSessionsResponse:
    """End all sessions of a person in the tenant, or all but the caller's own and what it follows."""
    caller = calls.caller()
    user_id = await sessions.whose(tx, request.user_id, "sessions.revoke")
    spared = caller.session_id if request.keep_current else None
    ended = await end_all(tx, user_id, source, reason="revoked", spared=spared)
    await events.write(tx, "auth.session.revoke_all", f"user:{user_id}", source=source, user_id=caller.id)
    await outbox.record(tx, f"user:{user_id}", {"revoked": ended})
    return session_pb.RevokeAllSessionsResponse(revoked=ended)


async def end_all(tx: Transaction, user_id: object, source: Source, *, reason: str, spared: str | None = None) -> int:
    """End all sessions of a person in the transaction's tenant, and give their number."""
    return len(await _end(tx, _all, source, reason=reason, person_id=user_id, spared=spared))


async def _end(tx: Transaction, statement: Statement, source: Source, **values: object) -> list[Row]:
    rows = await tx.all(statement, **activities.origin(source), **revocations.LIFE, **values)
    if rows:
        revocations.announce(tx)
    return rows
