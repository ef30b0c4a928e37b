"""Completions: a ticket and a code become a session. Both are spent by it, and neither without the other."""

from services.auth import devices, entrances, events, factors, memberships, proofs, tickets, totp
from services.auth.codes import Code
from services.auth.entrances import Entrances, Visitor
from services.auth.logins import LoginFailed
from services.auth.proofs import Proof
from services.auth.sources import Source
from services.auth.totp import Seals
from services.kit import faults, outbox
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Transaction
from triptych.auth.v1 import auth_service_pb2 as pb

ACTION = "auth.session.complete"


class Completions:
    """Logins with a ticket and a code."""

    def __init__(self, *, db: Database, seals: Seals, entrances: Entrances) -> None:
        self._db = db
        self._seals = seals
        self._entrances = entrances

    async def complete(self, request: pb.CompleteLoginRequest, source: Source) -> pb.CompleteLoginResponse:
        """End a login that needs a second factor."""
        ticket = tickets.parse(request.login_ticket)
        proof = await self._prepare(ticket, request.totp_code or request.recovery_code) if ticket is not None else None
        if ticket is None or proof is None:
            await self._refuse_ticket(source)
            raise LoginFailed
        async with self._db.begin(tenant=ticket.tenant_id) as tx:
            answer = await self._finish(tx, ticket, proof, source)
        if isinstance(answer, faults.Fault):
            raise answer
        return answer

    async def _prepare(self, ticket: Code, code: str) -> Proof | None:
        """Make the code ready to be spent; None when the ticket is not good. Nothing is asked in vain of OpenBao."""
        async with self._db.begin(tenant=ticket.tenant_id) as tx:
            found = await tickets.find(tx, ticket)
            if found is None:
                return None
            exhausted = await factors.exhausted(tx, found["user_id"])
            sealed = await totp.confirmed(tx, found["user_id"]) if exhausted is None else None
        return await proofs.prepare(self._seals, found["user_id"], code, sealed)

    async def _finish(
        self, tx: Transaction, ticket: Code, proof: Proof, source: Source
    ) -> pb.CompleteLoginResponse | faults.Fault:
        """Give the session, or what to raise; the caller commits either."""
        found = await tickets.find(tx, ticket, lock=True)
        if found is None or await memberships.find(tx, proof.user_id) is None:
            await proofs.refuse(tx, proof.user_id, proof.kind, "ticket", source)
            return LoginFailed()
        if (refusal := await proofs.spend(tx, proof, LoginFailed(), source)) is not None:
            return refusal
        known = found["device_info"].pop(entrances.KNOWN, None)
        visitor = Visitor(proof.user_id, found["session_epoch"], found["device_info"])
        entry = await self._entrances.enter(tx, visitor, source, ACTION)
        if entry is None:  # disabled or reset since the ticket was read
            await proofs.refuse(tx, proof.user_id, proof.kind, "account", source)
            return LoginFailed()
        await tickets.use(tx, found["id"])
        return pb.CompleteLoginResponse(
            tokens=entry.tokens,
            user=entry.user,
            tenant_id=entry.tenant_id,
            device_token="" if known else await devices.welcome(tx, proof.user_id, ""),
        )

    async def _refuse_ticket(self, source: Source) -> None:
        """Note a ticket that is not good. It may name any tenant, and no tenant's log is written for the asking."""
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            failure = {"problem": "ticket"}
            await events.write(tx, "auth.factor.refuse", "login_ticket:unknown", source=source, failure=failure)
            await outbox.record(
                tx, "login_ticket:unknown", failure, action="auth.factor.refuse", actor=("service", "auth")
            )
