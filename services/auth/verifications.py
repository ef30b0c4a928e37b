"""Proofs of an e-mail address: a code goes to it by mail and comes back once, within 24 hours.

The code of ChangeEmail (`moves`) also gives the account that address, as long as the account still has the one that it
had, and nothing has ended the sessions since: a new password undoes what a thief asked for.
"""

from datetime import timedelta

from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
    update,
)

from services.auth import addresses, codes, events, mailings, users
from services.auth.addresses import Address
from services.auth.codes import Code
from services.auth.letters import Letters
from services.auth.sources import Source
from services.kit import faults, outbox, requests
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Statement, Transaction, param, params
from triptych.auth.v1 import auth_service_pb2 as pb

LIFETIME = timedelta(hours=24)
RESEND = "auth.user.resend_verification"

table = Table(
    "email_verifications",
    MetaData(),
    Column("tenant_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("email_key", Text, nullable=False),
    Column("code_hash", LargeBinary, nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("use_time", DateTime(timezone=True)),
    Column("new_email", Text),
    Column("replaces_key", Text),
    Column("session_epoch", Integer),
    implicit_returning=False,
)
_insert = Statement(
    insert(table).values(
        **params("tenant_id user_id email_key code_hash new_email replaces_key session_epoch"),
        expire_time=func.now() + param("lifetime", Interval()),
    )
)
_good = (table.c.code_hash == param("digest")) & table.c.use_time.is_(None) & (table.c.expire_time > func.now())
_find = Statement(select(table.c.user_id).where(_good))
_use = Statement(update(table).where(_good).values(use_time=func.now()).returning(*table.c))
# What is superseded counts as used.
_changes = table.c.new_email.is_not(None)
_open = (table.c.user_id == param("person_id")) & table.c.use_time.is_(None)
_supersede = Statement(update(table).where(_open, ~_changes).values(use_time=func.now()))
_supersede_changes = Statement(update(table).where(_open, _changes).values(use_time=func.now()))


class VerificationInvalid(faults.FailedPrecondition):
    """Unknown, used or expired; which of them is not said."""

    def __init__(self) -> None:
        super().__init__("the code is not good, or no longer; take the newest mail")


CONSTRAINTS = {"users_email_key": VerificationInvalid}
"""Somebody else has taken the address between the mail and its code."""


def parse(text: str) -> Code:
    """Read a code, or refuse it."""
    code = codes.parse(codes.VERIFICATION, text)
    if code is None:
        raise VerificationInvalid
    return code


async def create(tx: Transaction, user_id: str, address: Address) -> Code:
    """Store a code for the address of somebody new and give it."""
    return await _store(tx, user_id=user_id, email_key=address.key)


async def create_change(tx: Transaction, user: Row, address: Address) -> Code:
    """Store a code that gives a person this address, and give it; those before it end."""
    await tx.run(_supersede_changes, person_id=user["id"])
    return await _store(
        tx,
        user_id=user["id"],
        email_key=address.key,
        new_email=address.text,
        replaces_key=user["email_key"],
        session_epoch=user["session_epoch"],
    )


async def use(tx: Transaction, code: Code, source: Source, letters: Letters) -> pb.VerifyEmailResponse:
    """Take a code back."""
    found = await tx.one(_find, digest=code.digest)
    user = await users.lock(tx, found["user_id"]) if found is not None else None
    proof = await tx.one(_use, digest=code.digest) if user is not None else None
    if user is None or proof is None:
        raise VerificationInvalid
    if proof["new_email"] is not None:
        await _move(tx, user, proof, letters)
    elif not await users.verify(tx, user["id"], proof["email_key"]):
        raise VerificationInvalid
    resource = f"user:{user['id']}"
    changed = ["email"] if proof["new_email"] is not None else ["verified"]
    await events.write(tx, "auth.user.verify_email", resource, source=source, user_id=user["id"])
    await outbox.record(tx, resource, {"changed": changed}, actor=("user", str(user["id"])))
    return pb.VerifyEmailResponse()


class Verifications:
    """Sends codes again to those who ask; whether anybody has the address is looked up when they have their answer."""

    def __init__(self, *, db: Database, letters: Letters) -> None:
        self._db = db
        self._letters = letters

    async def resend(self, request: pb.ResendVerificationRequest, source: Source) -> pb.ResendVerificationResponse:
        """Note that a mail was asked for again."""
        address = addresses.parse(request.email)
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            return await requests.once(tx, request, lambda tx, _: self._note(tx, address, source))

    async def _note(self, tx: Transaction, address: Address, source: Source) -> pb.ResendVerificationResponse:
        resource = f"address:{address.digest.hex()}"
        admitted = await mailings.admit(tx, address, mailings.VERIFY)
        failure = None if admitted else mailings.TOO_MANY
        await events.write(tx, RESEND, resource, source=source, failure=failure)
        await outbox.record(tx, resource, failure, actor=("service", "auth"))
        if admitted:
            tx.on_commit(lambda: self._letters.later(lambda: self._send(address, source)))
        return pb.ResendVerificationResponse()

    async def _send(self, address: Address, source: Source) -> None:
        """Mail a new code to whoever registered with the address and has not proved it; those before it end."""
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            found = await users.find(tx, address.key)
        if found is None:
            return
        async with self._db.begin(tenant=str(found["default_tenant_id"])) as tx:
            user = await users.lock(tx, found["id"])
            if user is None or user["email_key"] != address.key or user["verified"] or user["disable_time"] is not None:
                return
            await tx.run(_supersede, person_id=user["id"])
            code = await create(tx, user["id"], address)
            resource = f"user:{user['id']}"
            await events.write(tx, RESEND, resource, source=source, user_id=user["id"])
            await outbox.record(tx, resource, action=RESEND, actor=("service", "auth"))
            to: str = user["email"]
            tx.on_commit(lambda: self._letters.verify(to, code.text))


async def _store(tx: Transaction, **values: object) -> Code:
    code = codes.create(codes.VERIFICATION, tx.tenant_id)
    await tx.run(_insert, tenant_id=tx.tenant_id, code_hash=code.digest, lifetime=LIFETIME, **values)
    return code


async def _move(tx: Transaction, user: Row, proof: Row, letters: Letters) -> None:
    """Give the person the address. If somebody else has taken it meanwhile, a constraint says so."""
    same = (user["email_key"], user["session_epoch"]) == (proof["replaces_key"], proof["session_epoch"])
    if not same or user["disable_time"] is not None:
        raise VerificationInvalid
    await users.readdress(tx, user["id"], Address(proof["new_email"], proof["email_key"]))
    old: str = user["email"]
    tx.on_commit(lambda: letters.changed(old))
