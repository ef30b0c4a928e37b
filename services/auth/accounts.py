"""Accounts: whether somebody may log in at all, everywhere. Looked after by the admins of the person's home tenant.

What ends an account ends its sessions (session_epoch) and its tokens (token_version) in the same transaction. Deletion
erases what a thief could use and what says who it was; the id stays, because the audit log names it.
"""

from sqlalchemy import func, select, text, update

from services.auth import attempts, events, factors, memberships, profiles, reauthentications, revocations
from services.auth.addresses import Address
from services.auth.sources import Source
from services.auth.users import PERSON, PERSONAL, SECRET, UserNotFound, lock, table, wire
from services.kit import calls, faults, outbox
from services.kit.changes import Change
from services.kit.db import Row, Statement, Transaction, param
from triptych.auth.v1 import user_pb2, user_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

GONE = "deleted"
"""Name that stands for somebody who is gone."""
_this = table.c.id == param("user_id")
_end = {
    "token_version": table.c.token_version + 1,
    "session_epoch": table.c.session_epoch + 1,
    "revision": table.c.revision + 1,
    "update_time": func.now(),
}
_deactivate = Change(
    update(table)
    .where(_this)
    .values(disable_time=func.now(), disable_reason=param("reason"), **_end)
    .returning(*PERSON),
    kind="user",
    secret=SECRET,
)
_reactivate = Change(
    update(table)
    .where(_this)
    .values(disable_time=None, disable_reason="", revision=table.c.revision + 1, update_time=func.now())
    .returning(*PERSON),
    kind="user",
    secret=SECRET,
)
# What is erased here must not go into the log on the way out, not even as a commitment.
_delete = Change(
    update(table)
    .where(_this)
    .values(
        email="",
        email_key=func.concat(f"{GONE}:", table.c.id),
        display_name=GONE,
        password_hash=None,
        verified=False,
        settings={},
        disable_reason="",
        delete_time=func.now(),
        **_end,
    )
    .returning(table.c.id, table.c.token_version),
    kind="user",
    secret=(*SECRET, *PERSONAL, "disable_reason"),
)
_home = Statement(select(table.c.default_tenant_id).where(_this, table.c.delete_time.is_(None)))
_erase = Statement(text("SELECT erase(CAST(:user_id AS uuid))"))


async def deactivate(tx: Transaction, request: pb.DeactivateUserRequest, source: Source) -> pb.DeactivateUserResponse:
    """Keep a person out; who is kept out already stays so, for the first reason."""
    await profiles.expect(tx, request.user_id)
    await memberships.spare(tx, request.user_id)
    row = after = await profiles.hold(tx, request.user_id)
    details = {"reason": request.reason}
    if row["disable_time"] is None:
        after = await _deactivate.only(tx, details, user_id=row["id"], reason=request.reason)
        await revocations.of_subject(tx, row["id"], after["token_version"])
    else:
        await outbox.record(tx, f"user:{row['id']}", details)
    await _note(tx, "auth.user.deactivate", row, source)
    return pb.DeactivateUserResponse(user=_seen(after, row))


async def reactivate(tx: Transaction, request: pb.ReactivateUserRequest, source: Source) -> pb.ReactivateUserResponse:
    """Let a person in again; sessions that ended stay ended."""
    row = await profiles.hold(tx, request.user_id)
    after, details = row, {"reason": request.reason}
    if row["disable_time"] is not None:
        after = await _reactivate.only(tx, details, user_id=row["id"])
    else:
        await outbox.record(tx, f"user:{row['id']}", details)
    await _note(tx, "auth.user.reactivate", row, source)
    return pb.ReactivateUserResponse(user=_seen(after, row))


async def unlock(tx: Transaction, request: pb.UnlockUserRequest, source: Source) -> pb.UnlockUserResponse:
    """Forget the failures of a person: passwords and second factors."""
    row = await profiles.hold(tx, request.user_id)
    await attempts.reset(tx, Address(row["email"], row["email_key"]).digest)
    await factors.reset(tx, row["id"])
    await outbox.record(tx, f"user:{row['id']}", {"reason": request.reason})
    await _note(tx, "auth.user.unlock", row, source)
    return pb.UnlockUserResponse(user=_seen(row, row))


async def expect(tx: Transaction, request: pb.DeleteUserRequest) -> str:
    """Let through who may delete this account, and give its home tenant, where the deletion is recorded."""
    caller = calls.caller()
    user_id = request.user_id or caller.id
    if user_id == caller.id:
        await reauthentications.require(tx)
    elif caller.role < Role.ROLE_ADMIN:
        raise faults.CallerNotPermitted("only an admin deletes others", permission="users.delete")
    else:
        await profiles.expect(tx, user_id)
    row = await tx.one(_home, user_id=user_id)
    if row is None:
        raise UserNotFound(user_id)
    return str(row["default_tenant_id"])


async def erase(tx: Transaction, request: pb.DeleteUserRequest, source: Source) -> pb.DeleteUserResponse:
    """Delete an account, in a transaction of its home tenant."""
    user_id = request.user_id or calls.caller().id
    await memberships.spare(tx, user_id)
    row = await lock(tx, user_id)
    if row is None or str(row["default_tenant_id"]) != tx.tenant_id:
        raise UserNotFound(user_id)
    await attempts.reset(tx, Address(row["email"], row["email_key"]).digest)
    gone = await _delete.only(tx, {"reason": request.reason}, user_id=user_id)
    await revocations.of_subject(tx, user_id, gone["token_version"])
    await tx.run(_erase, user_id=user_id)
    await _note(tx, "auth.user.delete", row, source)
    return pb.DeleteUserResponse()


async def _note(tx: Transaction, action: str, row: Row, source: Source) -> None:
    """Write the security event; `user_id` is who acted, the resource whom it is about."""
    await events.write(tx, action, f"user:{row['id']}", source=source, user_id=calls.caller().id)


def _seen(row: Row, member: Row) -> user_pb2.User:
    return wire(row, member["role"], own=str(row["id"]) == calls.caller().id)
