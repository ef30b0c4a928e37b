"""Mails that can be asked for: five an hour to an address, whether or not anybody has it."""

from datetime import timedelta

from sqlalchemy import Column, DateTime, Integer, Interval, LargeBinary, MetaData, Table, Text, case, func, or_
from sqlalchemy.dialects.postgresql import insert

from services.auth.addresses import Address
from services.kit.db import Statement, Transaction, param, params

MOST = 5
WINDOW = timedelta(hours=1)
VERIFY, RESET = "verify", "reset"
TOO_MANY = {"problem": f"{MOST} mails were asked for in an hour"}

table = Table(
    "mail_requests",
    MetaData(),
    Column("address_hash", LargeBinary, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("begin_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("requests", Integer, nullable=False, server_default="1"),
)
_over = table.c.begin_time <= func.now() - param("window", Interval())
_count = Statement(
    insert(table)
    .values(**params("address_hash kind"))
    .on_conflict_do_update(
        index_elements=["address_hash", "kind"],
        set_={
            "begin_time": case((_over, func.now()), else_=table.c.begin_time),
            "requests": case((_over, 1), else_=table.c.requests + 1),
        },
        where=or_(_over, table.c.requests < param("most", Integer())),
    )
    .returning(table.c.requests)
)


async def admit(tx: Transaction, address: Address, kind: str) -> bool:
    """Count a mail to an address; False when it has had its five."""
    row = await tx.one(_count, address_hash=address.digest, kind=kind, most=MOST, window=WINDOW)
    return row is not None
