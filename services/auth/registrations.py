"""Registration: an invitation, an address and a password become a person, a membership and a mail.

Whoever registers learns nothing about an address: the answer is the same when it is known, and a mail tells its
owner.
"""

from dataclasses import dataclass

from services.auth import events, invitations, memberships, tenants, users, verifications
from services.auth.addresses import Address
from services.auth.codes import Code
from services.auth.letters import Letters
from services.auth.sources import Source
from services.kit import outbox
from services.kit.db import Row, Transaction
from triptych.auth.v1 import auth_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Applicant:
    """Somebody who registers, checked and hashed."""

    address: Address
    invitation: Code
    password_hash: str
    source: Source


async def create(
    tx: Transaction, request: pb.RegisterRequest, applicant: Applicant, letters: Letters
) -> pb.RegisterResponse:
    """Store the person, use the invitation, write the mail; all of it or nothing."""
    user_id = await users.create(
        tx, applicant.address, display_name=request.display_name, password_hash=applicant.password_hash
    )
    if user_id is None:
        return await _known(tx, applicant, letters)
    invitation = await invitations.consume(tx, applicant.invitation, user_id)
    await memberships.add(tx, user_id, invitation["role"])
    code = await verifications.create(tx, user_id, applicant.address)
    user = f"user:{user_id}"
    await events.write(tx, "auth.user.register", user, source=applicant.source, user_id=user_id)
    details = {"role": invitation["role"], "invitation_id": str(invitation["id"])}
    await outbox.record(tx, user, details, actor=("user", user_id))
    tx.on_commit(lambda: letters.verify(applicant.address.text, code.text))
    return pb.RegisterResponse()


async def _known(tx: Transaction, applicant: Applicant, letters: Letters) -> pb.RegisterResponse:
    """Nobody new, and the invitation stays good; the owner is told, at the stored address and not at the typed one."""
    found = await users.find(tx, applicant.address.key)
    if found is not None and await _belongs_nowhere(tx, found["id"]):
        return await _return(tx, applicant, found, letters)
    await invitations.expect_good(tx, applicant.invitation)  # as for an address that nobody has
    resource = f"address:{applicant.address.digest.hex()}"
    await events.write(
        tx, "auth.user.register", resource, source=applicant.source, failure={"problem": "the address is known"}
    )
    await outbox.record(tx, resource, action="auth.user.register_again", actor=("service", "auth"))
    if found is not None:
        stored: str = found["email"]
        tx.on_commit(lambda: letters.known(stored))
    return pb.RegisterResponse()


async def _belongs_nowhere(tx: Transaction, user_id: object) -> bool:
    """Say whether somebody who may log in belongs to no tenant any more, and keep them so until the end."""
    person = await users.lock(tx, user_id)
    return person is not None and person["disable_time"] is None and await tenants.landing(tx, user_id) is None


async def _return(tx: Transaction, applicant: Applicant, found: Row, letters: Letters) -> pb.RegisterResponse:
    """Take in whoever belongs nowhere, and so cannot log in to accept an invitation. Their password stays theirs.

    So does their home: strangers who know the address would get the account to look after, and could delete it.
    """
    invitation = await invitations.consume(tx, applicant.invitation, found["id"])
    await memberships.add(tx, found["id"], invitation["role"])
    user = f"user:{found['id']}"
    await events.write(tx, "auth.user.return", user, source=applicant.source, user_id=found["id"])
    details = {"role": invitation["role"], "invitation_id": str(invitation["id"])}
    await outbox.record(tx, user, details, action="auth.user.return", actor=("service", "auth"))
    stored: str = found["email"]
    tx.on_commit(lambda: letters.returned(stored))
    return pb.RegisterResponse()
