"""Assertions: logins with a passkey, as the second factor of a ticket, or alone and then with the person verified.

With the person verified they count as a reauthentication: for who has passkeys only, there is no other. The challenge
is spent first and for good; what was signed is compared after that, outside any transaction.
"""

from dataclasses import dataclass

from webauthn.authentication.verify_authentication_response import VerifiedAuthentication

from services.auth import ceremonies, challenges, entrances, passkeys, tickets, users
from services.auth.ceremonies import Given, PasskeyInvalid, RelyingParty
from services.auth.codes import Code
from services.auth.entrances import Entrances, Entry, Visitor
from services.auth.logins import LoginFailed
from services.auth.sources import Source
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Transaction
from triptych.auth.v1 import auth_service_pb2 as pb

ACTION = "auth.session.create_by_passkey"


@dataclass(frozen=True, slots=True)
class Assertion:
    """A passkey that was used, with what it was used for."""

    passkey: Row
    challenge: Row
    ticket: Code | None

    @property
    def tenant_id(self) -> str:
        """Where the session would be."""
        return self.ticket.tenant_id if self.ticket is not None else str(self.passkey["landing_tenant_id"])

    def fits(self, given: Given) -> bool:
        """Say whether the challenge was given to this person, or to nobody and the authenticator names them."""
        owner = self.passkey["user_id"]
        if given.user_handle not in (None, passkeys.handle(owner)):
            return False
        if self.ticket is None:
            return self.challenge["ticket_id"] is None and given.user_handle is not None
        return bool(self.challenge["user_id"] == owner)


class Assertions:
    """Logins with a passkey."""

    def __init__(self, *, db: Database, party: RelyingParty, entrances: Entrances) -> None:
        self._db = db
        self._party = party
        self._entrances = entrances

    async def begin(self, request: pb.BeginPasskeyLoginRequest) -> pb.BeginPasskeyLoginResponse:
        """Give a browser what it needs to use a passkey."""
        self._party.check_on()
        if not request.login_ticket:
            async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
                challenge = await challenges.create(tx, "login")
            return pb.BeginPasskeyLoginResponse(
                options_json=self._party.login_options(challenge=challenge, allowed=[], alone=True)
            )
        ticket = tickets.parse(request.login_ticket)
        if ticket is None:
            raise LoginFailed
        async with self._db.begin(tenant=ticket.tenant_id) as tx:
            found = await tickets.find(tx, ticket)
            held = await passkeys.held(tx, found["user_id"]) if found is not None else []
            if found is None or not held:
                raise LoginFailed
            challenge = await challenges.create(tx, "login", user_id=found["user_id"], ticket_id=found["id"])
        allowed = [row["credential_id"] for row in held]
        return pb.BeginPasskeyLoginResponse(
            options_json=self._party.login_options(challenge=challenge, allowed=allowed, alone=False)
        )

    async def finish(self, request: pb.FinishPasskeyLoginRequest, source: Source) -> pb.FinishPasskeyLoginResponse:
        """Begin a session for whoever the passkey belongs to."""
        self._party.check_on()
        passkey: Row | None = None
        try:
            given = ceremonies.read(request.credential_json)
            challenge, passkey = await self._take(given)
            assertion = _measured(request, given, challenge, passkey)
            used = self._party.asserted(
                given,
                given.challenge,
                public_key=assertion.passkey["public_key"],
                sign_count=assertion.passkey["sign_count"],
                alone=assertion.ticket is None,
            )
            async with self._db.begin(tenant=assertion.tenant_id) as tx:
                entry = await self._enter(tx, assertion, used, request.device_name, source)
        except PasskeyInvalid:
            await self._refuse(passkey, source)
            raise
        return pb.FinishPasskeyLoginResponse(tokens=entry.tokens, user=entry.user, tenant_id=entry.tenant_id)

    async def _take(self, given: Given) -> tuple[Row | None, Row | None]:
        """Spend the challenge, and find the passkey; this is committed whatever comes of it."""
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            challenge = await challenges.take(tx, "login", given.challenge)
            return challenge, await passkeys.find(tx, given.credential_id)

    async def _enter(
        self, tx: Transaction, assertion: Assertion, used: VerifiedAuthentication, device_name: str, source: Source
    ) -> Entry:
        """Begin the session, and spend the ticket if there is one."""
        passkey, found = assertion.passkey, None
        if assertion.ticket is not None:
            found = await tickets.find(tx, assertion.ticket, lock=True)
            if found is None or found["id"] != assertion.challenge["ticket_id"]:
                raise PasskeyInvalid
        await users.lock(tx, passkey["user_id"])
        if not await passkeys.use(
            tx, passkey["id"], sign_count=used.new_sign_count, backed_up=used.credential_backed_up
        ):
            raise PasskeyInvalid
        epoch = passkey["session_epoch"] if found is None else found["session_epoch"]
        visitor = Visitor(
            passkey["user_id"], epoch, entrances.device(device_name, source), reauthenticated=used.user_verified
        )
        entry = await self._entrances.enter(tx, visitor, source, ACTION)
        if entry is None:
            raise PasskeyInvalid
        if found is not None:
            await tickets.use(tx, found["id"])
        return entry

    async def _refuse(self, passkey: Row | None, source: Source) -> None:
        tenant_id = SYSTEM_TENANT if passkey is None else str(passkey["landing_tenant_id"])
        async with self._db.begin(tenant=tenant_id) as tx:
            await passkeys.refuse(tx, source, None if passkey is None else passkey["user_id"])


def _measured(
    request: pb.FinishPasskeyLoginRequest, given: Given, challenge: Row | None, passkey: Row | None
) -> Assertion:
    """Put together what belongs together, or refuse it."""
    ticket = tickets.parse(request.login_ticket) if request.login_ticket else None
    if challenge is None or passkey is None or (ticket is None and request.login_ticket):
        raise PasskeyInvalid
    assertion = Assertion(passkey, challenge, ticket)
    if not assertion.fits(given):
        raise PasskeyInvalid
    return assertion
