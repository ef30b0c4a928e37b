"""Endings: how a promotion that nobody decides on any more comes to its end: completed, refused, expired or blocked.

What the service does by itself is recorded as its own act.
"""

from sqlalchemy import func, select

from services.governance.experiments import experiments
from services.governance.experiments.promotions import CHANGED, MINE, REJECT, table
from services.kit import calls, faults
from services.kit.changes import Change
from services.kit.db import Row, Statement, Transaction, param

REJECTED = "experiments.promotion.reject"
COMPLETED = "experiments.promotion.complete"

LATE = "it expired"
ITSELF = ("service", "experiments")

_expire = Change(
    MINE.where(table.c.state == "pending", table.c.expire_time <= func.now())
    .values(state="rejected", reject_reason=LATE, rejected_by="experiments", **CHANGED)
    .returning(*table.c),
    kind="promotion",
)
_begin = Statement(
    MINE.where(table.c.state == "approved")
    .values(begin_time=func.coalesce(table.c.begin_time, func.now()))
    .returning(*table.c)
)
_complete = Change(
    MINE.where(table.c.state == "approved")
    .values(state="completed", promote_time=func.now(), **CHANGED)
    .returning(*table.c),
    kind="promotion",
)
_open_of_hash = Statement(
    select(table)
    .where(table.c.configuration_hash == param("hash"), (table.c.state == "pending") | (table.c.state == "approved"))
    .order_by(table.c.id)
    .with_for_update()
)
_begun_of_hash = Statement(
    select(table.c.id).where(
        table.c.configuration_hash == param("hash"), table.c.state == "approved", table.c.begin_time.is_not(None)
    )
)


async def begin(tx: Transaction, promotion_id: str) -> Row | None:
    """Mark that projects is going to be asked; from here on only the answer decides. None unless it is approved."""
    return await tx.one(_begin, promotion_id=promotion_id)


async def complete(tx: Transaction, promotion: Row) -> bool:
    """Store that production moved, and that the experiment is in it; False when somebody else has stored it."""
    facts = {name: promotion[name] for name in ("project_id", "from_version_id", "to_version_id")}
    row = await _complete.one(tx, facts, action=COMPLETED, actor=ITSELF, promotion_id=promotion["id"])
    if row is None:
        return False
    await experiments.move(tx, row["experiment_id"], "evaluating", "promoted")
    return True


async def fail(tx: Transaction, promotion: Row, why: str) -> None:
    """Store that projects refused what was approved."""
    values = {"promotion_id": promotion["id"], "from_state": "approved", "why": why, "who": "experiments"}
    await REJECT.one(tx, {"reject_reason": why}, action=REJECTED, actor=ITSELF, **values)


async def expire(tx: Transaction, promotion_id: str) -> None:
    """Reject a promotion that nobody decided on in time."""
    await _expire.one(tx, {"reject_reason": LATE}, action=REJECTED, actor=ITSELF, promotion_id=promotion_id)


async def reject_all(tx: Transaction, configuration_hash: str, why: str) -> int:
    """Reject all open promotions of a configuration; raise while one of them is being completed."""
    rows = await tx.all(_open_of_hash, hash=configuration_hash)
    if any(row["state"] == "approved" and row["begin_time"] is not None for row in rows):
        raise faults.DependencyUnavailable(
            "a promotion of this configuration is being completed; retry", dependency="projects"
        )
    for row in rows:
        values = {"promotion_id": row["id"], "from_state": row["state"], "why": why, "who": calls.caller().id}
        await REJECT.one(tx, {"reject_reason": why}, action=REJECTED, **values)
    return len(rows)


async def begun(tx: Transaction, configuration_hash: str) -> list[str]:
    """Give the promotions of a configuration whose completion has begun."""
    return [str(row["id"]) for row in await tx.all(_begun_of_hash, hash=configuration_hash)]
