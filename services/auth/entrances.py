"""Entrances: where somebody who has shown all that was asked gets a session, whichever way they came."""

from dataclasses import dataclass

from services.auth import events, reauthentications, sessions, users
from services.auth.sessions import Origin
from services.auth.settings import AuthSettings
from services.auth.sources import Source
from services.auth.tokens import Minting
from services.auth.words import ROLES
from services.kit import outbox
from services.kit.db import Transaction
from triptych.auth.v1 import auth_service_pb2 as pb, user_pb2

KNOWN = "known"
"""Key in a ticket's device_info: the device has its token already."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who has shown what was asked, and what the session shall know of the device."""

    user_id: object
    epoch: int
    """The person's session_epoch when they began; what ends sessions meanwhile ends this too."""
    device_info: dict[str, str]
    new_hash: str | None = None
    reauthenticated: bool = False
    """What they showed counts as a reauthentication too."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What somebody gets who came in."""

    tokens: pb.Tokens
    user: user_pb2.User
    tenant_id: str


class Entrances:
    """Begins sessions."""

    def __init__(self, *, minting: Minting, settings: AuthSettings) -> None:
        self._minting = minting
        self._settings = settings

    async def enter(self, tx: Transaction, visitor: Visitor, source: Source, action: str) -> Entry | None:
        """Begin a session in the transaction's tenant; None when the person may not come in any more."""
        user = await users.enter(tx, visitor.user_id, epoch=visitor.epoch, new_hash=visitor.new_hash)
        if user is None:
            return None
        refresh, origin = self._minting.refresh.begin(tx.tenant_id), Origin(epoch=visitor.epoch)
        try:
            session = await sessions.create(
                tx, visitor.user_id, refresh, self._settings, visitor.device_info, origin=origin
            )
        except sessions.SessionInvalid:  # no member of the tenant any more; the transaction is as good as before
            return None
        if visitor.reauthenticated:
            await reauthentications.note(tx, session["id"])
        resource = f"session:{session['id']}"
        await events.write(tx, action, resource, source=source, user_id=visitor.user_id)
        details = {"user_id": str(visitor.user_id)}
        await outbox.record(tx, resource, details, action=action, actor=("user", str(visitor.user_id)))
        role: str = session["role"]
        return Entry(
            self._minting.pair(session, ROLES.number(role), refresh), users.wire(user, role, own=True), tx.tenant_id
        )


def device(name: str, source: Source) -> dict[str, str]:
    """Say what a session knows of its device."""
    return {"name": name, "ip_address": source.address, "user_agent": source.user_agent}
