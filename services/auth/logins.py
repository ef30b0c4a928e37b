"""Logins: reserve an attempt, compare the password, begin a session or note the refusal.

Whoever fails learns nothing of why, and neither does their clock: an unknown address, a wrong password and a person
who may not log in cost the same statements and the same hash; a locked address costs the same time.
"""

from dataclasses import dataclass
from typing import Any

from services.auth import attempts, events, memberships, roles, sessions, users
from services.auth.addresses import Address
from services.auth.settings import AuthSettings
from services.auth.sources import Source
from services.auth.tokens import Minting
from services.kit import faults, outbox
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Row, Transaction
from triptych.auth.v1 import auth_service_pb2 as pb


class LoginFailed(faults.Unauthenticated):
    """These are not the credentials of somebody who may log in now."""

    def __init__(self) -> None:
        super().__init__("address or password is wrong, or this person may not log in now")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One login under way."""

    address: Address
    source: Source
    user: Row | None
    """Who has the address."""
    admitted: bool
    """The address is not locked."""

    @property
    def tenant_id(self) -> str:
        """Where a session would be, and where the refusal is written; nobody's refusals belong to the installation."""
        return str(self.user["default_tenant_id"]) if self.user is not None else SYSTEM_TENANT

    @property
    def password_hash(self) -> str | None:
        """What the password must match."""
        return self.user["password_hash"] if self.user is not None else None


async def reserve(tx: Transaction, address: Address, source: Source, settings: AuthSettings) -> Attempt:
    """Count the attempt before anything is compared, and look up who it is for."""
    admitted = await attempts.reserve(
        tx, address.digest, limit=settings.lock_failures, lock_seconds=settings.lock_seconds
    )
    return Attempt(address, source, await users.find(tx, address.key), admitted)


async def end(
    tx: Transaction,
    request: pb.LoginRequest,
    attempt: Attempt,
    *,
    matched: bool,
    new_hash: str | None,
    settings: AuthSettings,
    minting: Minting,
) -> pb.LoginResponse | None:
    """Begin the session, or note the refusal and give None; the caller commits either."""
    user = attempt.user
    membership = await memberships.find(tx, user["id"] if user is not None else SYSTEM_TENANT)
    if user is None or membership is None or not (attempt.admitted and matched and user["open"]):
        await _refuse(tx, attempt)
        return None
    entered = await users.enter(tx, user["id"], new_hash=new_hash)
    if entered is None:
        await _refuse(tx, attempt)
        return None
    await attempts.reset(tx, attempt.address.digest)
    refresh = minting.refresh.begin(tx.tenant_id)
    device_info = _device(request, attempt.source)
    session = await sessions.create(tx, user["id"], refresh, settings, device_info)
    resource = f"session:{session['id']}"
    await events.write(tx, "auth.session.create", resource, source=attempt.source, user_id=user["id"])
    await outbox.record(tx, resource, {"user_id": str(user["id"])}, actor=("user", str(user["id"])))
    return pb.LoginResponse(
        tokens=minting.pair(session, roles.wire(membership["role"]), refresh),
        user=users.wire(entered, membership["role"]),
        tenant_id=tx.tenant_id,
    )


async def _refuse(tx: Transaction, attempt: Attempt) -> None:
    resource = f"address:{attempt.address.digest.hex()}"
    failure: dict[str, Any] = {"locked": not attempt.admitted}
    user_id = attempt.user["id"] if attempt.user is not None else None
    await events.write(tx, "auth.session.refuse", resource, source=attempt.source, user_id=user_id, failure=failure)
    await outbox.record(tx, resource, failure, action="auth.session.refuse", actor=("service", "auth"))


def _device(request: pb.LoginRequest, source: Source) -> dict[str, str]:
    return {"name": request.device_name, "ip_address": source.address, "user_agent": source.user_agent}
