"""Logins: reserve an attempt, compare the password, then a session, a ticket for the second factor, or a refusal.

Whoever fails learns nothing of why, and neither does their clock: an unknown address, a wrong password and an account
that is closed cost the same statements and the same hash; a locked address costs the same time.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from services.auth import addresses, attempts, devices, entrances, events, factors, memberships, tenants, tickets, users
from services.auth.addresses import Address
from services.auth.entrances import Entrances, Visitor
from services.auth.passwords import Match, Passwords
from services.auth.settings import AuthSettings
from services.auth.sources import Source
from services.kit import calls, faults, outbox
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Transaction
from triptych.auth.v1 import auth_service_pb2 as pb

ACTION = "auth.session.create"
OWED = "auth.session.owe_factor"
TARPIT_FROM = 5
TARPIT_MOST = 5
"""Failures in a row from which on each refusal waits, and how many times longer than the first one the last."""
SPARE_SECONDS = 0.5
"""What is left of the caller's time when a tarpit lets go."""


class LoginFailed(faults.Unauthenticated):
    """These are not the credentials of somebody who may log in now."""

    def __init__(self) -> None:
        super().__init__("address, password or code is wrong, or this person may not log in now")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One comparison of a password under way."""

    address_digest: bytes
    source: Source
    user: Row | None
    """Who has the address."""
    failures: int
    """How many in a row this makes if it fails; 0 when it is not admitted, because the address is locked."""
    at_device: bool = False
    """It counts at a known device, and not at the address, which strangers may have locked."""
    landing: str | None = None
    """Tenant that the person logs in to; not given when nobody logs in, or when they belong to none."""

    @property
    def admitted(self) -> bool:
        """The password is compared."""
        return self.failures > 0

    @property
    def person(self) -> Row:
        """Who has the address, where somebody has."""
        if self.user is None:
            raise ValueError("nobody has this address")
        return self.user

    @property
    def user_id(self) -> object:
        """The person, or an id that nobody has."""
        return self.user["id"] if self.user is not None else SYSTEM_TENANT

    @property
    def tenant_id(self) -> str:
        """Where a session would be, and where the refusal is written; nobody's refusals belong to the installation."""
        if self.user is None:
            return SYSTEM_TENANT
        return self.landing or str(self.user["default_tenant_id"])

    @property
    def password_hash(self) -> str | None:
        """What the password must match."""
        return self.user["password_hash"] if self.user is not None else None

    def may_enter(self, match: Match) -> bool:
        """Say whether it was made by somebody who may log in, with their password."""
        return self.admitted and match.matched and self.user is not None and bool(self.user["open"])


class Logins:
    """Logins with a password."""

    def __init__(self, *, db: Database, passwords: Passwords, entrances: Entrances, settings: AuthSettings) -> None:
        self._db = db
        self._passwords = passwords
        self._entrances = entrances
        self._settings = settings

    async def begin(self, request: pb.LoginRequest, source: Source) -> pb.LoginResponse:
        """Log in, or begin to."""
        address = addresses.lenient(request.email)
        with self._passwords.place():
            async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
                attempt = await self._reserve(tx, address, source, request.device_token)
            match = await self._passwords.compare(attempt.password_hash, request.password, admitted=attempt.admitted)
        answer = await self._admit(request, attempt, match) if attempt.may_enter(match) else None
        if answer is None:
            async with self._db.begin(tenant=attempt.tenant_id) as tx:
                await refuse(tx, attempt)
            await tarpit(attempt, self._settings)
            raise LoginFailed
        return answer

    async def _reserve(self, tx: Transaction, address: Address, source: Source, device_token: str) -> Attempt:
        """Count the attempt before anything is compared: at the known device, else at the address."""
        user = await users.find(tx, address.key)
        person, limit = user["id"] if user is not None else SYSTEM_TENANT, self._settings.lock_failures
        landing = await tenants.landing(tx, person)
        if failures := await devices.reserve(tx, person, device_token, limit=limit):
            return Attempt(address.digest, source, user, failures, at_device=True, landing=landing)
        failures = await reserve(tx, address.digest, self._settings)
        return Attempt(address.digest, source, user, failures, landing=landing)

    async def _admit(self, request: pb.LoginRequest, attempt: Attempt, match: Match) -> pb.LoginResponse | None:
        """Give the session or the ticket; None, and nothing is changed, to who may not come in any more."""
        user = attempt.person
        visitor = Visitor(
            user["id"], user["session_epoch"], entrances.device(request.device_name, attempt.source), match.new_hash
        )
        try:
            async with self._db.begin(tenant=attempt.tenant_id) as tx:
                if user["second_factor"]:
                    return await self._owe(tx, visitor, attempt, request.device_token)
                return await self._enter(tx, visitor, attempt, request.device_token)
        except LoginFailed:
            return None

    async def _enter(self, tx: Transaction, visitor: Visitor, attempt: Attempt, device_token: str) -> pb.LoginResponse:
        entry = await self._entrances.enter(tx, visitor, attempt.source, ACTION)
        if entry is None:
            raise LoginFailed
        await settle(tx, attempt)
        return pb.LoginResponse(
            tokens=entry.tokens,
            user=entry.user,
            tenant_id=entry.tenant_id,
            device_token=await devices.welcome(tx, visitor.user_id, device_token),
        )

    async def _owe(self, tx: Transaction, visitor: Visitor, attempt: Attempt, device_token: str) -> pb.LoginResponse:
        """Give a ticket: the password was right, and the second factor is owed."""
        if await memberships.find(tx, visitor.user_id) is None or not await users.rehash(
            tx, visitor.user_id, epoch=visitor.epoch, new_hash=visitor.new_hash
        ):
            raise LoginFailed
        await settle(tx, attempt)
        if await devices.renew(tx, visitor.user_id, device_token):
            visitor.device_info[entrances.KNOWN] = "yes"
        ticket = await tickets.create(tx, visitor.user_id, visitor.epoch, visitor.device_info)
        user, owed = f"user:{visitor.user_id}", await factors.kinds(tx, visitor.user_id)
        await events.write(tx, OWED, user, source=attempt.source, user_id=visitor.user_id)
        await outbox.record(tx, user, action=OWED, actor=("user", str(visitor.user_id)))
        return pb.LoginResponse(login_ticket=ticket, factors=owed)


async def reserve(tx: Transaction, address_digest: bytes, settings: AuthSettings) -> int:
    """Count an attempt at an address as failed, whether or not it has succeeded yet."""
    return await attempts.reserve(tx, address_digest, limit=settings.lock_failures, lock_seconds=settings.lock_seconds)


async def refuse(tx: Transaction, attempt: Attempt) -> None:
    """Note a refusal, with the address as hash."""
    resource = f"address:{attempt.address_digest.hex()}"
    failure: dict[str, Any] = {"locked": not attempt.admitted}
    user_id = attempt.user["id"] if attempt.user is not None else None
    await events.write(tx, "auth.session.refuse", resource, source=attempt.source, user_id=user_id, failure=failure)
    await outbox.record(tx, resource, failure, action="auth.session.refuse", actor=("service", "auth"))


async def tarpit(attempt: Attempt, settings: AuthSettings) -> None:
    """Keep whoever has failed often waiting, longer each time; nothing is held meanwhile but the call."""
    call = calls.current()
    wait = settings.tarpit_seconds * min(attempt.failures // TARPIT_FROM, TARPIT_MOST)
    left = call.expires - asyncio.get_running_loop().time() - SPARE_SECONDS if call is not None else wait
    await asyncio.sleep(max(min(wait, left), 0.0))


async def settle(tx: Transaction, attempt: Attempt) -> None:
    """Forget failures after a right password. Those that strangers made at the address stay, and so does its lock."""
    if not attempt.at_device:
        await attempts.reset(tx, attempt.address_digest)
