"""What time does to reservations: holds end, and uses of which the counters were never told come to light."""

import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Column, DateTime, MetaData, Table, Text, Uuid, delete, func, insert, select, update

from services.kit import outbox
from services.kit.db import Statement, Transaction, param, params
from services.providers import owners, reservations
from services.providers.owners import Owner
from services.providers.reservations import table

SWEEP = 500
"""Rows that one round takes at most."""
PATIENCE = timedelta(seconds=5)
"""How long whoever committed may take to tell the counters."""
EXPIRED = "providers.quota.expire"
charges = Table(
    "usage_charges",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_tenants = Statement(select(func.tenants_with_due_reservations().label("tenant_id")))
_due = (
    select(table.c.id)
    .where(table.c.state == "held", table.c.expire_time < func.now())
    .order_by(table.c.expire_time)
    .limit(SWEEP)
    .with_for_update(skip_locked=True)
)
_expire = Statement(
    update(table)
    .where(table.c.id.in_(_due), table.c.state == "held")
    .values(state="expired", settle_time=func.clock_timestamp())
    .returning(*table.c)
)
_uncounted = Statement(
    select(table.c.id, table.c.owner_kind, table.c.owner_id)
    .where(
        table.c.state == "committed",
        table.c.counted.is_(False),
        table.c.settle_time < func.now() - PATIENCE,
    )
    .limit(SWEEP)
)
_counted = Statement(update(table).where(table.c.id == func.any(param("ids"))).values(counted=True))
_charge = Statement(insert(charges).values(**params("tenant_id owner_kind owner_id")).returning(charges.c.id))
_uncharged = Statement(
    select(charges.c.id, charges.c.owner_kind, charges.c.owner_id)
    .where(charges.c.create_time < func.now() - PATIENCE)
    .limit(SWEEP)
)
_charged = Statement(delete(charges).where(charges.c.id == func.any(param("ids"))))


async def tenants(tx: Transaction) -> list[str]:
    """Give the tenants in which there is work."""
    return [str(row["tenant_id"]) for row in await tx.all(_tenants)]


async def expire(tx: Transaction) -> set[Owner]:
    """End reservations whose time is over and give their owners."""
    rows = await tx.all(_expire)
    for row in rows:
        await outbox.record(
            tx, f"reservation:{row['id']}", reservations.wire(row), action=EXPIRED, actor=("service", "providers")
        )
    return {owners.in_row(row) for row in rows}


async def uncounted(tx: Transaction) -> tuple[set[Owner], list[uuid.UUID], list[uuid.UUID]]:
    """Give the owners of uses of which the counters were never told; the reservations and the charges."""
    committed, charged = await tx.all(_uncounted), await tx.all(_uncharged)
    whose = {owners.in_row(row) for row in (*committed, *charged)}
    return whose, [row["id"] for row in committed], [row["id"] for row in charged]


async def charge(tx: Transaction, owner: Owner) -> uuid.UUID:
    """Note that the counters must be told of uses without a reservation."""
    return (await tx.only(_charge, tenant_id=tx.tenant_id, **owner.columns))["id"]  # type: ignore[no-any-return]


async def mark_counted(tx: Transaction, ids: Sequence[uuid.UUID], charge_ids: Sequence[uuid.UUID]) -> None:
    """Note that the counters have these commits and charges."""
    await tx.run(_counted, ids=list(ids))
    if charge_ids:
        await tx.run(_charged, ids=list(charge_ids))
