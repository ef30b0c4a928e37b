"""Proofs of an e-mail address: a code goes to it by mail and comes back once, within 24 hours."""

from datetime import timedelta

from sqlalchemy import Column, DateTime, Interval, LargeBinary, MetaData, Table, Text, Uuid, func, insert, update

from services.auth import codes, events, users
from services.auth.addresses import Address
from services.auth.codes import Code
from services.auth.sources import Source
from services.kit import faults, outbox
from services.kit.db import Statement, Transaction, param, params
from triptych.auth.v1 import auth_service_pb2 as pb

LIFETIME = timedelta(hours=24)

table = Table(
    "email_verifications",
    MetaData(),
    Column("tenant_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("email_key", Text, nullable=False),
    Column("code_hash", LargeBinary, nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("use_time", DateTime(timezone=True)),
    implicit_returning=False,
)
_insert = Statement(
    insert(table).values(
        **params("tenant_id user_id email_key code_hash"), expire_time=func.now() + param("lifetime", Interval())
    )
)
_use = Statement(
    update(table)
    .where(table.c.code_hash == param("digest"), table.c.use_time.is_(None), table.c.expire_time > func.now())
    .values(use_time=func.now())
    .returning(table.c.user_id, table.c.email_key)
)


class VerificationInvalid(faults.FailedPrecondition):
    """Unknown, used or expired; which of them is not said."""

    def __init__(self) -> None:
        super().__init__("the code is not good, or no longer; take the newest mail")


def parse(text: str) -> Code:
    """Read a code, or refuse it."""
    code = codes.parse(codes.VERIFICATION, text)
    if code is None:
        raise VerificationInvalid
    return code


async def create(tx: Transaction, user_id: str, address: Address) -> Code:
    """Store a code for an address and give it."""
    code = codes.create(codes.VERIFICATION, tx.tenant_id)
    await tx.run(
        _insert,
        tenant_id=tx.tenant_id,
        user_id=user_id,
        email_key=address.key,
        code_hash=code.digest,
        lifetime=LIFETIME,
    )
    return code


async def use(tx: Transaction, code: Code, source: Source) -> pb.VerifyEmailResponse:
    """Take a code back."""
    row = await tx.one(_use, digest=code.digest)
    if row is None or not await users.verify(tx, row["user_id"], row["email_key"]):
        raise VerificationInvalid
    user = f"user:{row['user_id']}"
    await events.write(tx, "auth.user.verify_email", user, source=source, user_id=row["user_id"])
    await outbox.record(tx, user, actor=("user", str(row["user_id"])))
    return pb.VerifyEmailResponse()
