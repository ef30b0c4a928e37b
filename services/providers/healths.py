"""Health of providers: the row, its wire form, its queries, and the rules by which a state changes.

Three failures in a row degrade a provider, five make it unhealthy; then it takes three successes in a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Column, DateTime, Integer, MetaData, Select, Table, Text, Uuid, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from services.providers import providers
from services.providers.words import HEALTH_STATES
from triptych.providers.v1 import health_service_pb2 as pb, provider_health_pb2

DEGRADED, UNHEALTHY, RECOVERED = 3, 5, 3
"""Failures, failures and successes in a row."""
ORDER = {"healthy": 0, "unknown": 0, "degraded": 1, "unhealthy": 2}
MOST_WATCHED = 1000

table = Table(
    "provider_health",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("provider_id", Uuid, primary_key=True),
    Column("state", Text, nullable=False),
    Column("consecutive_failures", Integer, nullable=False),
    Column("consecutive_successes", Integer, nullable=False),
    Column("problem", Text, nullable=False),
    Column("latency_ms", Integer, nullable=False),
    Column("check_time", DateTime(timezone=True)),
    Column("success_time", DateTime(timezone=True)),
    Column("failure_time", DateTime(timezone=True)),
    Column("change_time", DateTime(timezone=True), nullable=False),
    Column("due_time", DateTime(timezone=True), nullable=False),
    Column("revision", Integer, nullable=False),
    implicit_returning=False,
)
_mine = table.c.provider_id == param("of_provider")
_ensure = Statement(upsert(table).values(**params("tenant_id provider_id")).on_conflict_do_nothing())
_lock = Statement(select(table).where(_mine).with_for_update())
_store = Statement(
    update(table)
    .where(_mine)
    .values(
        **params("state consecutive_failures consecutive_successes problem latency_ms change_time"),
        check_time=func.now(),
        success_time=param("success_time"),
        failure_time=param("failure_time"),
        revision=table.c.revision + 1,
    )
)
_now = Statement(select(func.now().label("now")))
_states = Statement(select(table.c.provider_id, table.c.state).where(table.c.provider_id == func.any(param("ids"))))
_catalogue = providers.table


@dataclass(frozen=True, slots=True)
class Standing:
    """How a provider did lately."""

    state: str = "unknown"
    failures: int = 0
    successes: int = 0

    def after(self, *, ok: bool) -> "Standing":
        """Give the standing after one more answer or failure."""
        if ok:
            successes = self.successes + 1
            settled = self.state in {"unknown", "healthy"} or successes >= RECOVERED
            return Standing("healthy" if settled else self.state, 0, successes)
        now = replace(self, failures=self.failures + 1, successes=0)
        if now.failures >= UNHEALTHY:
            return replace(now, state="unhealthy")
        return replace(now, state="degraded") if now.failures >= DEGRADED and self.state != "unhealthy" else now


async def note(tx: Transaction, provider_id: str, *, problem: str, latency_ms: int) -> str:
    """Note what a check or a call came to; no problem is a success. Gives the state."""
    await tx.run(_ensure, tenant_id=tx.tenant_id, provider_id=provider_id)
    row = await tx.only(_lock, of_provider=provider_id)
    before = Standing(row["state"], row["consecutive_failures"], row["consecutive_successes"])
    ok, moment = not problem, (await tx.only(_now))["now"]
    after = before.after(ok=ok)
    await tx.run(
        _store,
        of_provider=provider_id,
        state=after.state,
        consecutive_failures=after.failures,
        consecutive_successes=after.successes,
        problem=problem[:200],
        latency_ms=latency_ms,
        change_time=row["change_time"] if after.state == before.state else moment,
        success_time=moment if ok else row["success_time"],
        failure_time=row["failure_time"] if ok else moment,
    )
    return after.state


async def states(tx: Transaction, provider_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Give the states of providers; those that nobody asked yet are unknown."""
    rows = await tx.all(_states, ids=list(provider_ids))
    return dict.fromkeys(provider_ids, "unknown") | {row["provider_id"]: row["state"] for row in rows}


async def page(tx: Transaction, page: Page) -> pb.ListProviderHealthResponse:
    """Give one page of the active providers, in order of name."""
    query = _all().limit(page.limit)
    if page.after is not None:
        query = query.where(_catalogue.c.name > page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["name"],))
    return pb.ListProviderHealthResponse(provider_health=[_wire(row) for row in rows], next_page_token=token)


async def watched(tx: Transaction) -> list[tuple[tuple[str, str], provider_health_pb2.ProviderHealth]]:
    """Give the active providers, each with what tells a watcher that there is news."""
    rows = await tx.all(_all().limit(MOST_WATCHED))
    return [((str(row["id"]), f"{row['state']} {row['change_time']}"), _wire(row)) for row in rows]


def _all() -> Select[Any]:
    joined = (table.c.tenant_id == _catalogue.c.tenant_id) & (table.c.provider_id == _catalogue.c.id)
    return (
        select(_catalogue.c.id, _catalogue.c.name, *(column for column in table.c if column.name != "tenant_id"))
        .outerjoin(table, joined)
        .where(_catalogue.c.active)
        .order_by(_catalogue.c.name)
    )


def _wire(row: Row) -> provider_health_pb2.ProviderHealth:
    return provider_health_pb2.ProviderHealth(
        provider_id=str(row["id"]),
        provider_name=row["name"],
        state=HEALTH_STATES.number(row["state"] or "unknown"),
        consecutive_failures=row["consecutive_failures"] or 0,
        consecutive_successes=row["consecutive_successes"] or 0,
        problem=row["problem"] or "",
        latency_ms=row["latency_ms"] or 0,
        check_time=row["check_time"],
        success_time=row["success_time"],
        failure_time=row["failure_time"],
        change_time=row["change_time"] if row["check_time"] is not None else None,
    )
