"""Enrollments of TOTP: the secret is made and sealed between transactions, a code that was guessed is counted."""

from services.auth import events, factors, notices, profiles, proofs, recoveries, sessions, totp, users
from services.auth.factors import FactorRate
from services.auth.letters import Letters
from services.auth.sources import Source
from services.auth.totp import EnrollmentInvalid, Opened, Seals
from services.kit import calls, faults, outbox, requests
from services.kit.db import Database, Transaction
from triptych.auth.v1 import factor_service_pb2 as pb


class Enrollments:
    """Turns TOTP on for callers."""

    def __init__(self, *, db: Database, seals: Seals, letters: Letters) -> None:
        self._db = db
        self._seals = seals
        self._letters = letters

    async def begin(self, request: pb.EnrollTotpRequest, source: Source) -> pb.EnrollTotpResponse:
        """Make a secret and give it; it waits for its confirmation."""
        caller = calls.caller().id
        async with self._db.begin() as tx:
            if (stored := await requests.recall(tx, request)) is not None:
                return stored  # type: ignore[no-any-return]
            await totp.expect(tx)
        secret = totp.create()
        sealed = await self._seals.seal(caller, secret)

        async def enroll(tx: Transaction, _: pb.EnrollTotpRequest) -> pb.EnrollTotpResponse:
            email: str = (await profiles.member(tx, caller))["email"]
            await events.write(tx, "auth.factor.enroll_totp", f"user:{caller}", source=source, user_id=caller)
            return await totp.enroll(tx, secret=secret, sealed=sealed, email=email)

        async with self._db.begin() as tx:
            return await requests.once(tx, request, enroll)

    async def confirm(self, request: pb.ConfirmTotpRequest, source: Source) -> pb.ConfirmTotpResponse:
        """Turn TOTP on with a code of the new secret."""
        caller = calls.caller().id
        async with self._db.begin() as tx:
            if (stored := await requests.recall(tx, request)) is not None:
                return stored  # type: ignore[no-any-return]
            exhausted = await factors.exhausted(tx, caller)
            sealed = await totp.pending(tx, caller) if exhausted is None else None
        opened = await self._seals.open(caller, sealed) if sealed is not None else Opened("", None)
        async with self._db.begin() as tx:
            answer = await _confirm(tx, request, opened, source, self._letters)
        if isinstance(answer, faults.Fault):
            raise answer
        return answer


async def _confirm(
    tx: Transaction, request: pb.ConfirmTotpRequest, opened: Opened, source: Source, letters: Letters
) -> pb.ConfirmTotpResponse | FactorRate | EnrollmentInvalid:
    """Confirm, or give what to raise; the caller commits either. One of a person's requests passes at a time."""
    caller = calls.caller().id
    await users.lock(tx, caller)
    await sessions.current(tx)  # a new password may have ended it since the enrollment began
    if (stored := await requests.recall(tx, request)) is not None:
        return stored  # type: ignore[no-any-return]
    if (exhausted := await factors.exhausted(tx, caller)) is not None:
        await proofs.refuse(tx, caller, "totp", "too many", source)
        return exhausted
    if not await totp.confirm(tx, opened, request.code):
        await factors.count(tx, caller)
        await proofs.refuse(tx, caller, "totp", "enrollment", source)
        return EnrollmentInvalid()
    return await requests.once(tx, request, lambda tx, _: _confirmed(tx, source, letters))


async def _confirmed(tx: Transaction, source: Source, letters: Letters) -> pb.ConfirmTotpResponse:
    caller = calls.caller().id
    await factors.reset(tx, caller)
    codes = [] if await recoveries.left(tx, caller) else await recoveries.replace(tx, caller)
    user = f"user:{caller}"
    await events.write(tx, "auth.factor.confirm_totp", user, source=source, user_id=caller)
    await outbox.record(tx, user, {"recovery_codes": len(codes)})
    await notices.post(tx, letters, notices.TOTP_CONFIRMED)
    return pb.ConfirmTotpResponse(recovery_codes=codes)
