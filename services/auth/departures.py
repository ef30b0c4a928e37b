"""Departures: a person leaves a tenant, or is taken out of it. Their account and their other tenants stay."""

from sqlalchemy import func, select, update

from services.auth import endings, events, identities, memberships, tenants, users
from services.auth.members import MemberNotFound
from services.auth.sources import Source
from services.kit import calls, faults, outbox
from services.kit.db import Statement, Transaction, param
from triptych.auth.v1 import member_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

_table = memberships.table
_find = Statement(select(_table.c.remove_time).where(_table.c.user_id == param("user_id")))
_remove = Statement(
    update(_table)
    .where(_table.c.user_id == param("user_id"), _table.c.remove_time.is_(None))
    .values(
        remove_time=func.now(),
        remove_reason=param("reason"),
        revision=_table.c.revision + 1,
        update_time=func.now(),
    )
)


async def record(tx: Transaction, request: pb.RemoveMemberRequest, source: Source) -> pb.RemoveMemberResponse:
    """Take a person out of the tenant; somebody who is gone stays gone."""
    caller = calls.caller()
    if request.user_id != caller.id and caller.role < Role.ROLE_ADMIN:
        raise faults.CallerNotPermitted("only an admin takes out others", permission="members.remove")
    await memberships.spare(tx, request.user_id, tx.tenant_id)
    row = await tx.one(_find, user_id=request.user_id)
    if row is None:
        raise MemberNotFound(user_id=request.user_id)
    member = f"member:{request.user_id}"
    if row["remove_time"] is None:
        await _leave(tx, request, source)
        await events.write(tx, "auth.member.remove", member, source=source, user_id=caller.id)
    await outbox.record(tx, member, {"reason": request.reason})
    return pb.RemoveMemberResponse()


async def _leave(tx: Transaction, request: pb.RemoveMemberRequest, source: Source) -> None:
    """End what the person has here: tokens, sessions, membership, identities; and their home, if it was this."""
    person = await users.lock(tx, request.user_id)
    await users.end_tokens(tx, request.user_id)
    await endings.end_all(tx, request.user_id, source, reason="removed")
    await tx.run(_remove, user_id=request.user_id, reason=request.reason)
    await identities.drop(tx, request.user_id)
    home = await tenants.landing(tx, request.user_id)
    if home is not None and person is not None and str(person["default_tenant_id"]) == tx.tenant_id:
        await users.move(tx, request.user_id, home)
