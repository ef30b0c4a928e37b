"""Moves: somebody wants their account to have another address, and has shown again who they are.

The code goes to the new address, a notice to the old one. Who else may have the new address is looked up when the
caller has their answer; then its owner is told, and there is no code.
"""

from services.auth import addresses, events, mailings, reauthentications, refusals, users, verifications
from services.auth.addresses import Address
from services.auth.letters import Letters
from services.auth.sources import Source
from services.kit import calls, faults, outbox, requests
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Transaction
from triptych.auth.v1 import auth_service_pb2 as pb

ACTION = "auth.user.change_email"


class Moves:
    """Begins changes of addresses; `verifications` ends them."""

    def __init__(self, *, db: Database, letters: Letters) -> None:
        self._db = db
        self._letters = letters

    async def begin(self, request: pb.ChangeEmailRequest, source: Source) -> pb.ChangeEmailResponse:
        """Note what was asked for, and mail."""
        address = addresses.parse(request.new_email)
        async with refusals.noted(self._db, f"user:{calls.caller().id}", source), self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, _: self._note(tx, address, source))

    async def _note(self, tx: Transaction, address: Address, source: Source) -> pb.ChangeEmailResponse:
        user = await users.lock(tx, calls.caller().id)
        if user is None or user["disable_time"] is not None:
            raise faults.TokenInvalid
        await reauthentications.require(tx)  # of the epoch that the code will remember
        resource = f"user:{user['id']}"
        admitted = await _admit(tx, user, address)
        failure = None if admitted else mailings.TOO_MANY
        await events.write(tx, ACTION, resource, source=source, user_id=user["id"], failure=failure)
        await outbox.record(tx, resource, failure)
        if admitted:
            code = await verifications.create_change(tx, user, address)
            tx.on_commit(lambda: self._letters.later(lambda: self._send(user, address, code.text)))
        return pb.ChangeEmailResponse()

    async def _send(self, user: Row, address: Address, code: str) -> None:
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            owner = await users.find(tx, address.key)
        if owner is None or owner["id"] == user["id"]:
            self._letters.change(address.text, code)
        else:
            self._letters.taken(owner["email"])
        self._letters.changing(user["email"])


async def _admit(tx: Transaction, user: Row, address: Address) -> bool:
    """Count the mails: one to each of both addresses."""
    old = Address(user["email"], user["email_key"])
    both = {found.key: found for found in (old, address)}.values()
    return all([await mailings.admit(tx, found, mailings.VERIFY) for found in both])
