"""Login tickets: who has shown the password and owes the second factor. Good for five minutes and for one login.

A ticket is no token: nothing but CompleteLogin and the passkey login takes it. It ends with whatever ends sessions.
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
    Uuid,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.auth import codes, users
from services.auth.codes import Code
from services.kit.db import Row, Statement, Transaction, param, params

LIFETIME = timedelta(minutes=5)

table = Table(
    "login_tickets",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("ticket_hash", LargeBinary, nullable=False),
    Column("session_epoch", Integer, nullable=False),
    Column("device_info", JSONB, nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("use_time", DateTime(timezone=True)),
    implicit_returning=False,
)
_insert = Statement(
    insert(table).values(
        **params("tenant_id user_id ticket_hash session_epoch device_info"),
        expire_time=func.now() + param("lifetime", Interval()),
    )
)
_live = table.c.use_time.is_(None) & (table.c.expire_time > func.now())
_good = (
    select(table.c.id, table.c.user_id, table.c.session_epoch, table.c.device_info)
    .join(users.table, users.table.c.id == table.c.user_id)
    .where(
        table.c.ticket_hash == param("digest"),
        _live,
        users.table.c.session_epoch == table.c.session_epoch,
        users.table.c.verified,
        users.ACTIVE,
    )
)
_find = Statement(_good)
_lock = Statement(_good.with_for_update(of=table))
_use = Statement(update(table).where(table.c.id == param("ticket_id"), _live).values(use_time=func.now()))


async def create(tx: Transaction, user_id: object, epoch: int, device_info: dict[str, str]) -> str:
    """Store a ticket of the transaction's tenant and give it."""
    code = codes.create(codes.TICKET, tx.tenant_id)
    await tx.run(
        _insert,
        tenant_id=tx.tenant_id,
        user_id=user_id,
        ticket_hash=code.digest,
        session_epoch=epoch,
        device_info=device_info,
        lifetime=LIFETIME,
    )
    return code.text


def parse(text: str) -> Code | None:
    """Read a ticket; None when it is none."""
    return codes.parse(codes.TICKET, text)


async def find(tx: Transaction, code: Code, *, lock: bool = False) -> Row | None:
    """Give a ticket that is good now, of somebody who may log in now; nobody else uses it while it is locked."""
    return await tx.one(_lock if lock else _find, digest=code.digest)


async def use(tx: Transaction, ticket_id: object) -> None:
    """Spend a ticket that is locked."""
    await tx.run(_use, ticket_id=ticket_id)
