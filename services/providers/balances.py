"""Balances: where an owner's windows stand by the ledger and the holds, without any counter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from sqlalchemy import select

from services.kit.db import Row, Statement, Transaction, param
from services.providers import ledgers, owners, quotas, reservations, windows
from services.providers.counters import Account, Hold
from services.providers.owners import Owner
from services.providers.reservations import Plan, table
from services.providers.windows import NAMES, Amounts, Limits, Want
from triptych.providers.v1 import quota_pb2, quota_service_pb2 as pb

_held = owners.owned(table) & (table.c.state == "held") & (table.c.expire_time > param("now"))
_holds = Statement(select(table).where(_held, table.c.day >= param("month"), table.c.day < param("next_month")))


@dataclass(frozen=True, slots=True)
class Balance:
    """An owner's windows as the ledger has them."""

    account: Account
    committed: Amounts
    holds: Sequence[Hold]

    @property
    def held(self) -> Amounts:
        """What is held in the windows of the account's day."""
        today = [hold.want.amounts for hold in self.holds if hold.day == self.account.day]
        month = [hold.want.amounts for hold in self.holds]
        return {name: sum(part[name] for part in (today if name.startswith("daily") else month)) for name in NAMES}


async def renew(tx: Transaction, owner: Owner, *, seen: int | None = None) -> Balance | None:
    """Begin a new epoch and give what its counters must show; None when the epoch is not the one that was seen."""
    row = await quotas.renew(tx, owner, seen=seen)
    return None if row is None else await _sum(tx, reservations.account_of(tx, row))


async def admit(tx: Transaction, request: pb.ReserveQuotaRequest, *, plan: Plan) -> pb.ReserveQuotaResponse:
    """Admit and store a reservation without counters: the owner's row is locked and the ledger summed."""
    row = await quotas.renew(tx, plan.account.owner)
    if row is None:
        raise RuntimeError("the quota row of a plan is gone")
    balance = await _sum(tx, reservations.account_of(tx, row))
    limits, committed, held = quotas.limits(row), balance.committed, balance.held
    used = {name: committed[name] + held[name] for name in NAMES}
    if exceeded := windows.exceeded(limits, used, plan.hold.want):
        raise reservations.QuotaExceeded(exceeded, limits, balance.account)
    today = replace(plan, hold=replace(plan.hold, day=balance.account.day))  # it may have become another one meanwhile
    return await reservations.store(tx, request, today)


async def standing(tx: Transaction, owner: Owner, limits: Limits) -> list[quota_pb2.QuotaWindow]:
    """Give where the windows of an owner stand, by the ledger."""
    now = await _sum(tx, Account(tx.tenant_id, owner, 0, await quotas.now(tx)))
    held = now.held
    return [
        quota_pb2.QuotaWindow(
            name=name,
            limit=windows.text(name, limit),
            committed=windows.text(name, now.committed[name]),
            held=windows.text(name, held[name]),
            reset_time=cast("Any", windows.reset_time(name, now.account.day)),
        )
        for name in NAMES
        if (limit := limits[name]) is not None
    ]


async def _sum(tx: Transaction, account: Account) -> Balance:
    bounds = {"month": windows.month(account.day), "next_month": windows.next_month(account.day)}
    rows = await tx.all(_holds, **account.owner.columns, now=account.now, **bounds)
    return Balance(account, await ledgers.sums(tx, account.owner, account.day), [_hold(row) for row in rows])


def _hold(row: Row) -> Hold:
    want = Want(row["estimated_tokens"], row["estimated_cost_nano"])
    return Hold(str(row["hold_id"]), want, row["day"], row["expire_time"])
