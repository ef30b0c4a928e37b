"""Balances: where the windows of an owner or a tenant stand by the ledger and the holds, without any counter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, Date, cast as as_type, func, select, true, union_all
from sqlalchemy.sql import literal

from services.kit.db import Row, Statement, Transaction, param
from services.providers import epochs, ledgers, owners, quotas, reservations, windows
from services.providers.counters import Account, Accounts, Hold
from services.providers.owners import Owner
from services.providers.plans import Plan, QuotaExceeded
from services.providers.windows import CONCURRENT, NAMES, Amounts, Limits, Want
from triptych.providers.v1 import quota_pb2

table = reservations.table


def _holds(whose: ColumnElement[bool]) -> Statement:
    return Statement(
        select(
            table.c.hold_id, table.c.day, table.c.expire_time, table.c.estimated_tokens, table.c.estimated_cost_nano
        ).where(
            whose,
            table.c.state == "held",
            table.c.expire_time > param("now"),
            table.c.day >= param("month"),
            table.c.day < param("next_month"),
        )
    )


def _standing(whose: ColumnElement[bool], used: ColumnElement[bool]) -> Statement:
    """Used and held in one statement: what is committed meanwhile is in one of them, never in both or neither."""
    events = ledgers.table
    spans = {"daily": param("day"), "monthly": param("month")}
    committed = [
        select(
            literal(f"{kind}_{unit}").label("name"),
            func.coalesce(func.sum(column), 0).label("committed"),
            literal(0).label("held"),
        ).where(used, events.c.date >= as_type(since, Date), events.c.date < param("next_month"))
        for kind, since in spans.items()
        for unit, column in ledgers.UNITS.items()
    ]
    held_units = {
        "requests": literal(1), "tokens": table.c.estimated_tokens, "cost_usd": table.c.estimated_cost_nano,
    }  # fmt: skip
    live = (table.c.state == "held") & (table.c.expire_time > func.now())
    held = [
        select(literal(f"{kind}_{unit}"), literal(0), func.coalesce(func.sum(column), 0)).where(
            whose, live, table.c.day >= as_type(since, Date), table.c.day < param("next_month")
        )
        for kind, since in spans.items()
        for unit, column in held_units.items()
    ]
    concurrent = select(literal(CONCURRENT), literal(0), func.count()).where(whose, live)
    return Statement(union_all(*committed, *held, concurrent))


_OWNED, _ALL = owners.owned(table), true()
_holds_of = {False: _holds(_OWNED), True: _holds(_ALL)}
_standing_of = {False: _standing(_OWNED, owners.owned(ledgers.table)), True: _standing(_ALL, true())}


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's windows as the ledger has them."""

    account: Account
    committed: Amounts
    holds: Sequence[Hold]

    @property
    def held(self) -> Amounts:
        """What is held in the windows of the account's day."""
        today = [hold.want.amounts for hold in self.holds if hold.day == self.account.day]
        month = [hold.want.amounts for hold in self.holds]
        return {name: sum(part[name] for part in (today if name.startswith("daily") else month)) for name in NAMES}

    def exceeded(self, limits: Limits, want: Want) -> list[str]:
        """Name the limits within which it does not fit."""
        held = self.held
        found = windows.exceeded(limits, {name: self.committed[name] + held[name] for name in NAMES}, want)
        most = limits.get(CONCURRENT)
        return [*found, CONCURRENT] if most is not None and len(self.holds) >= most else found


async def renew(tx: Transaction, owner: Owner, *, seen: int | None = None) -> Balance | None:
    """Begin a new epoch and give what its counters must show; None when the epoch is not the one that was seen."""
    account = await epochs.renew(tx, owner, seen=seen)
    return None if account is None else await balance(tx, account)


async def admit(tx: Transaction, plan: Plan) -> Plan:
    """Admit a plan without counters, or raise: the rows of owner and tenant are locked and the ledger summed."""
    renewed = [await renew(tx, account.owner) for account in plan.accounts]
    own, tenant = (part for part in renewed if part is not None)
    own_limits = {name: plan.limits[name] for name in (*NAMES, CONCURRENT)}
    tenant_limits = {name: plan.limits[windows.TENANT + name] for name in NAMES}
    want = plan.hold.want
    exceeded = own.exceeded(own_limits, want)
    exceeded += [windows.TENANT + name for name in tenant.exceeded(tenant_limits, want)]
    if exceeded:
        raise QuotaExceeded(exceeded, plan.limits, own.account)
    return plan.on(Accounts(own.account, tenant.account))


async def balance(tx: Transaction, account: Account) -> Balance:
    """Sum ledger and holds of an account. Its epoch must be held, or the two sums may not fit together."""
    whole = account.owner.kind == "tenant"
    bounds = {"month": windows.month(account.day), "next_month": windows.next_month(account.day)}
    whose = {} if whole else account.owner.columns
    rows = await tx.all(_holds_of[whole], **whose, now=account.now, **bounds)
    return Balance(account, await ledgers.sums(tx, account.owner, account.day), [_hold(row) for row in rows])


async def standing(tx: Transaction, owner: Owner, limits: Limits) -> list[quota_pb2.QuotaWindow]:
    """Give where the windows of an owner or tenant stand, by the ledger."""
    day = (await quotas.now(tx)).date()
    whole = owner.kind == "tenant"
    bounds = {"day": day, "month": windows.month(day), "next_month": windows.next_month(day)}
    rows = await tx.all(_standing_of[whole], **({} if whole else owner.columns), **bounds)
    found = {name: [0, 0] for name in limits}
    for row in rows:
        if row["name"] in found:
            found[row["name"]][0] += int(row["committed"])
            found[row["name"]][1] += int(row["held"])
    return [
        quota_pb2.QuotaWindow(
            name=name,
            limit=windows.text(name, limit),
            committed=windows.text(name, found[name][0]),
            held=windows.text(name, found[name][1]),
            reset_time=None if name == CONCURRENT else cast("Any", windows.reset_time(name, day)),
        )
        for name, limit in limits.items()
        if limit is not None
    ]


def _hold(row: Row) -> Hold:
    want = Want(row["estimated_tokens"], row["estimated_cost_nano"])
    return Hold(str(row["hold_id"]), want, row["day"], row["expire_time"])
