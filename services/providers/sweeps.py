"""What time does to reservations: holds end, and commits of which the counters were never told come to light."""

import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, select, update

from services.kit import outbox
from services.kit.db import Statement, Transaction, param
from services.providers import owners, reservations
from services.providers.owners import Owner
from services.providers.reservations import table

SWEEP = 500
"""Rows that one round takes at most."""
EXPIRED = "providers.quota.expire"
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
        table.c.settle_time < func.now() - timedelta(seconds=5),
    )
    .limit(SWEEP)
)
_counted = Statement(update(table).where(table.c.id == func.any(param("ids"))).values(counted=True))


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


async def uncounted(tx: Transaction) -> dict[Owner, list[uuid.UUID]]:
    """Give commits of which the counters were never told, by owner."""
    found: dict[Owner, list[uuid.UUID]] = {}
    for row in await tx.all(_uncounted):
        found.setdefault(owners.in_row(row), []).append(row["id"])
    return found


async def mark_counted(tx: Transaction, ids: Sequence[uuid.UUID]) -> None:
    """Note that the counters have these commits."""
    await tx.run(_counted, ids=list(ids))
