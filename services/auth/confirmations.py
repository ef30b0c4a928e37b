"""Confirmations: people who are logged in show again who they are; it counts as a login does, lock and all.

A second factor that gives no codes is not passed over: who has passkeys only logs in again with one of them.
"""

from services.auth import events, factors, logins, proofs, reauthentications, totp, users
from services.auth.addresses import Address
from services.auth.factors import FactorMissing
from services.auth.logins import Attempt, LoginFailed
from services.auth.passwords import Passwords
from services.auth.proofs import Proof
from services.auth.settings import AuthSettings
from services.auth.sources import Source
from services.auth.totp import Seals
from services.kit import calls, faults, outbox
from services.kit.db import Database, Row, Transaction
from triptych.auth.v1 import auth_service_pb2 as pb
from triptych.auth.v1.factor_pb2 import FactorKind

ACTION = "auth.session.reauthenticate"
CODES = {FactorKind.FACTOR_KIND_TOTP, FactorKind.FACTOR_KIND_RECOVERY_CODE}
"""Who has one of these must give a code."""


class Confirmations:
    """Reauthentications of callers."""

    def __init__(self, *, db: Database, passwords: Passwords, seals: Seals, settings: AuthSettings) -> None:
        self._db = db
        self._passwords = passwords
        self._seals = seals
        self._settings = settings

    async def confirm(self, request: pb.ReauthenticateRequest, source: Source) -> pb.ReauthenticateResponse:
        """Compare the password, then the code of who has a second factor."""
        proof = await self._prepare(request.code)
        with self._passwords.place():
            async with self._db.begin() as tx:
                attempt = await self._reserve(tx, source)
            match = await self._passwords.compare(attempt.password_hash, request.password, admitted=attempt.admitted)
        async with self._db.begin() as tx:
            answer = await self._end(tx, attempt, proof) if match.matched else await self._refuse(tx, attempt)
        if isinstance(answer, LoginFailed):
            await logins.tarpit(attempt, self._settings)
        if isinstance(answer, faults.Fault):
            raise answer
        return answer

    async def _prepare(self, code: str) -> Proof | None:
        """Open what is needed for the code before a password is compared: without OpenBao neither is tried."""
        caller = calls.caller().id
        async with self._db.begin() as tx:
            if not CODES & set(await factors.kinds(tx, caller)):
                return None
            sealed = await totp.confirmed(tx, caller)
        return await proofs.prepare(self._seals, caller, code, sealed)

    async def _reserve(self, tx: Transaction, source: Source) -> Attempt:
        """Count the attempt at the caller's address."""
        user = await _caller(tx)
        digest = Address(user["email"], user["email_key"]).digest
        return Attempt(digest, source, user, await logins.reserve(tx, digest, self._settings))

    async def _end(
        self, tx: Transaction, attempt: Attempt, proof: Proof | None
    ) -> pb.ReauthenticateResponse | faults.Fault:
        """Note that the caller showed all that was asked, or give what to raise; the caller commits either."""
        user = await _caller(tx)
        if user["password_hash"] != attempt.password_hash:
            return await self._refuse(tx, attempt)
        if proof is not None and (refusal := await proofs.spend(tx, proof, LoginFailed(), attempt.source)) is not None:
            return refusal
        if proof is None and (kinds := set(await factors.kinds(tx, attempt.user_id))):
            return await self._refuse(tx, attempt) if CODES & kinds else await self._point(tx, attempt)
        until = await reauthentications.note(tx, calls.caller().session_id)
        if until is None:
            return faults.TokenInvalid()
        await logins.settle(tx, attempt)
        session = f"session:{calls.caller().session_id}"
        await events.write(tx, ACTION, session, source=attempt.source, user_id=attempt.user_id)
        await outbox.record(tx, session)
        answer = pb.ReauthenticateResponse()
        answer.expire_time.FromDatetime(until)
        return answer

    async def _refuse(self, tx: Transaction, attempt: Attempt) -> LoginFailed:
        session, failure = f"session:{calls.caller().session_id}", {"locked": not attempt.admitted}
        await events.write(tx, ACTION, session, source=attempt.source, user_id=attempt.user_id, failure=failure)
        await outbox.record(tx, session, failure, action="auth.session.refuse")
        return LoginFailed()

    async def _point(self, tx: Transaction, attempt: Attempt) -> FactorMissing:
        """Send who has passkeys only to log in with one; the password was right, which is no failure."""
        await logins.settle(tx, attempt)
        session, failure = f"session:{calls.caller().session_id}", {"problem": "no factor that gives codes"}
        await events.write(tx, ACTION, session, source=attempt.source, user_id=attempt.user_id, failure=failure)
        await outbox.record(tx, session, failure, action="auth.session.refuse")
        return FactorMissing(
            "you have no factor that gives codes: log in again with the passkey, which counts as a reauthentication"
        )


async def _caller(tx: Transaction) -> Row:
    """Give the caller, whom nobody else changes until the transaction ends."""
    user = await users.lock(tx, calls.caller().id)
    if user is None or user["disable_time"] is not None:
        raise faults.TokenInvalid
    return user
