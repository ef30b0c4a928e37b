"""Resets: a new password for who reads the mails of the address, with a code that is good once, within 30 minutes.

The call that asks for a code looks nobody up: that, and the mail, come when the caller has their answer, so neither the
answer nor its time tells whether anybody has the address. Mails go to the address as it is stored (CVE-2019-19844).
"""

from datetime import timedelta

from sqlalchemy import (
    Column,
    DateTime,
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

from services.auth import addresses, attempts, codes, events, mailings, passwords, refusals, replacements, users
from services.auth.addresses import Address
from services.auth.codes import Code
from services.auth.letters import Letters
from services.auth.passwords import Passwords
from services.auth.sources import Source
from services.kit import faults, outbox, requests
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Statement, Transaction, param, params
from triptych.auth.v1 import auth_service_pb2 as pb

LIFETIME = timedelta(minutes=30)
REQUEST, RESET = "auth.password.request_reset", "auth.password.reset"

table = Table(
    "password_resets",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("user_id", Uuid, nullable=False),
    Column("token_hash", LargeBinary, nullable=False),
    Column("email_key", Text, nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("use_time", DateTime(timezone=True)),
    Column("supersede_time", DateTime(timezone=True)),
    implicit_returning=False,
)
_insert = Statement(
    insert(table).values(**params("user_id token_hash email_key"), expire_time=func.now() + param("life", Interval()))
)
_good = (
    (table.c.token_hash == param("digest"))
    & table.c.use_time.is_(None)
    & table.c.supersede_time.is_(None)
    & (table.c.expire_time > func.now())
)
_expect = Statement(
    select(users.table.c.id, users.table.c.email, users.table.c.email_key)
    .join(table, table.c.user_id == users.table.c.id)
    .where(_good, users.table.c.email_key == table.c.email_key, users.ACTIVE)
)
_use = Statement(update(table).where(_good).values(use_time=func.now()).returning(table.c.email_key))


class ResetInvalid(faults.FailedPrecondition):
    """Unknown, used, expired, superseded, or of an address that has changed; which of them is not said."""

    def __init__(self) -> None:
        super().__init__("the code is not good, or no longer; take the newest mail, or ask for one")


class Resets:
    """Gives and takes codes for new passwords."""

    def __init__(self, *, db: Database, passwords: Passwords, letters: Letters) -> None:
        self._db = db
        self._passwords = passwords
        self._letters = letters

    async def request(self, request: pb.RequestPasswordResetRequest, source: Source) -> pb.RequestPasswordResetResponse:
        """Note that a mail was asked for; whether one is sent is decided later."""
        address = addresses.lenient(request.email)
        resource = f"address:{address.digest.hex()}"
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            admitted = await mailings.admit(tx, address, mailings.RESET)
            failure = None if admitted else mailings.TOO_MANY
            await events.write(tx, REQUEST, resource, source=source, failure=failure)
            await outbox.record(tx, resource, failure, actor=("service", "auth"))
            if admitted:
                tx.on_commit(lambda: self._letters.later(lambda: self._send(address, source)))
        return pb.RequestPasswordResetResponse()

    async def use(self, request: pb.ResetPasswordRequest, source: Source) -> pb.ResetPasswordResponse:
        """Take a code back and set the password."""
        code = codes.parse(codes.RESET, request.code)
        if code is None:
            raise ResetInvalid
        async with refusals.noted(self._db, f"code:{code.digest.hex()}", source):
            with self._passwords.place():
                async with self._db.begin(tenant=code.tenant_id) as tx:
                    if (answer := await requests.recall(tx, request)) is not None:
                        return answer  # type: ignore[no-any-return]
                    holder = await _holder(tx, code)
                passwords.check(request.new_password, Address(holder["email"], holder["email_key"]))
                new_hash = await self._passwords.hash(request.new_password)
            async with self._db.begin(tenant=code.tenant_id) as tx:
                return await requests.once(
                    tx, request, lambda tx, _: self._replace(tx, code, holder["id"], new_hash, source)
                )

    async def _send(self, address: Address, source: Source) -> None:
        """Mail a code to whoever has the address; the codes before it end."""
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            found = await users.find(tx, address.key)
        if found is None:
            return
        async with self._db.begin(tenant=str(found["default_tenant_id"])) as tx:
            user = await users.lock(tx, found["id"])
            if user is None or user["email_key"] != address.key or user["disable_time"] is not None:
                return
            await replacements.supersede(tx, user["id"])
            code = codes.create(codes.RESET, tx.tenant_id)
            await tx.run(_insert, user_id=user["id"], token_hash=code.digest, email_key=address.key, life=LIFETIME)
            await _note(tx, REQUEST, user, source, actor=("service", "auth"))
            to: str = user["email"]
            tx.on_commit(lambda: self._letters.reset(to, code.text))

    async def _replace(
        self, tx: Transaction, code: Code, user_id: object, new_hash: str, source: Source
    ) -> pb.ResetPasswordResponse:
        """Spend the code and set the password, together. The mail that the code came by proves the address as well."""
        user = await users.lock(tx, user_id)
        spent = await tx.one(_use, digest=code.digest)
        if user is None or spent is None or user["email_key"] != spent["email_key"] or user["disable_time"] is not None:
            raise ResetInvalid
        await replacements.put(tx, user, new_hash, self._letters)
        await attempts.reset(tx, Address(user["email"], user["email_key"]).digest)
        await _note(tx, RESET, user, source, actor=("user", str(user["id"])))
        return pb.ResetPasswordResponse()


async def _holder(tx: Transaction, code: Code) -> Row:
    row = await tx.one(_expect, digest=code.digest)
    if row is None:
        raise ResetInvalid
    return row


async def _note(tx: Transaction, action: str, user: Row, source: Source, *, actor: tuple[str, str]) -> None:
    resource = f"user:{user['id']}"
    await events.write(tx, action, resource, source=source, user_id=user["id"])
    await outbox.record(tx, resource, action=action, actor=actor)
