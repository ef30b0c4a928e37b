"""Replacements: a person gets another password, by a reset or because they know the old one.

Whatever was had with the old one ends with it, everywhere: sessions, access tokens, codes that were mailed, known
devices. Second factors stay, and are asked for at the next login; who has one and knows the old password
reauthenticates first, so that a stolen token and a stolen password are not enough.
"""

from sqlalchemy import DateTime, Uuid, column, func, select, table as lightweight, update

from services.auth import (
    devices,
    entrances,
    events,
    factors,
    logins,
    memberships,
    passwords,
    reauthentications,
    revocations,
    sessions,
    users,
)
from services.auth.addresses import Address
from services.auth.entrances import Entrances, Visitor
from services.auth.letters import Letters
from services.auth.logins import Attempt, LoginFailed
from services.auth.passwords import Passwords
from services.auth.settings import AuthSettings
from services.auth.sources import Source
from services.kit import calls, faults, outbox
from services.kit.db import Database, Row, Statement, Transaction, param
from triptych.auth.v1 import auth_service_pb2 as pb

ACTION = "auth.password.change"
ENTRANCE = "auth.session.create"
_people = users.table
_resets = lightweight(
    "password_resets",
    column("user_id", Uuid),
    column("use_time", DateTime(timezone=True)),
    column("supersede_time", DateTime(timezone=True)),
)
_put = Statement(
    update(_people)
    .where(_people.c.id == param("user_id"))
    .values(
        password_hash=param("new_hash"),
        verified=True,
        token_version=_people.c.token_version + 1,
        session_epoch=_people.c.session_epoch + 1,
        revision=_people.c.revision + 1,
        update_time=func.now(),
    )
    .returning(_people.c.token_version, _people.c.session_epoch)
)
_supersede = Statement(
    update(_resets)
    .where(_resets.c.user_id == param("user_id"), _resets.c.use_time.is_(None), _resets.c.supersede_time.is_(None))
    .values(supersede_time=func.now())
)
_caller = Statement(select(_people).where(_people.c.id == param("user_id"), users.ACTIVE))


async def put(tx: Transaction, user: Row, new_hash: str, letters: Letters) -> int:
    """Give a person, who is locked, this password, tell them, and give the session epoch that begins with it."""
    row = await tx.only(_put, user_id=user["id"], new_hash=new_hash)
    await revocations.of_subject(tx, user["id"], row["token_version"])
    await supersede(tx, user["id"])
    await devices.forget(tx, user["id"])
    to: str = user["email"]
    tx.on_commit(lambda: letters.password_changed(to))
    return int(row["session_epoch"])


async def supersede(tx: Transaction, user_id: object) -> None:
    """Let no code for a new password be good that was mailed until now."""
    await tx.run(_supersede, user_id=user_id)


class Replacements:
    """Changes of passwords by who knows the old one."""

    def __init__(
        self, *, db: Database, passwords: Passwords, entrances: Entrances, letters: Letters, settings: AuthSettings
    ) -> None:
        self._db = db
        self._passwords = passwords
        self._entrances = entrances
        self._letters = letters
        self._settings = settings

    async def change(self, request: pb.ChangePasswordRequest, source: Source) -> pb.ChangePasswordResponse:
        """Compare the old password as a login does, count included, and set the new one."""
        with self._passwords.place():
            async with self._db.begin() as tx:
                attempt = await self._reserve(tx, request.new_password, source)
            match = await self._passwords.compare(
                attempt.password_hash, request.old_password, admitted=attempt.admitted
            )
            new_hash = await self._passwords.hash(request.new_password) if match.matched else ""
        async with self._db.begin() as tx:
            answer = await self._put(tx, attempt, new_hash) if match.matched else None
            if answer is None:
                await _refuse(tx, attempt)
        if answer is None:
            await logins.tarpit(attempt, self._settings)
            raise LoginFailed
        return answer

    async def _reserve(self, tx: Transaction, new_password: str, source: Source) -> Attempt:
        """Count the attempt before anything is compared; a new password that is refused costs none."""
        user = await tx.one(_caller, user_id=calls.caller().id)
        if user is None:
            raise faults.TokenInvalid
        address = Address(user["email"], user["email_key"])
        passwords.check(new_password, address)
        await _step_up(tx, user["id"])  # before the old password is compared: the refusal says nothing of it
        return Attempt(address.digest, source, user, await logins.reserve(tx, address.digest, self._settings))

    async def _put(self, tx: Transaction, attempt: Attempt, new_hash: str) -> pb.ChangePasswordResponse | None:
        """Set it and begin a session; None when the password was replaced since it was compared."""
        user = await users.lock(tx, attempt.user_id)
        membership = await memberships.find(tx, attempt.user_id)
        if user is None or membership is None or user["disable_time"] is not None:
            raise faults.TokenInvalid
        if user["password_hash"] != attempt.password_hash:
            return None
        before = await sessions.current(tx)
        await _step_up(tx, user["id"])  # again: a factor may have come, and the session's proof ended, since
        epoch = await put(tx, user, new_hash, self._letters)
        device_info = entrances.device(before["device_info"].get("name", ""), attempt.source)
        visitor = Visitor(user["id"], epoch, device_info)
        entry = await self._entrances.enter(tx, visitor, attempt.source, ENTRANCE)
        if entry is None:
            raise faults.TokenInvalid
        await logins.settle(tx, attempt)
        resource = f"user:{user['id']}"
        await events.write(tx, ACTION, resource, source=attempt.source, user_id=user["id"])
        await outbox.record(tx, resource)
        return pb.ChangePasswordResponse(tokens=entry.tokens)


async def _step_up(tx: Transaction, user_id: object) -> None:
    """Let who has a second factor through only after a reauthentication."""
    if await factors.kinds(tx, user_id):
        await reauthentications.require(tx)


async def _refuse(tx: Transaction, attempt: Attempt) -> None:
    resource, failure = f"user:{attempt.user_id}", {"locked": not attempt.admitted}
    await events.write(tx, ACTION, resource, source=attempt.source, user_id=attempt.user_id, failure=failure)
    await outbox.record(tx, resource, failure, action="auth.password.refuse")
