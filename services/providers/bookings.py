"""Booking of what was used: the ledger in PostgreSQL first, then the counters, and repairs where they were not told.

A reservation that is not marked as counted, or a charge that is still there, tells the sweep that counters lack it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from redis.exceptions import RedisError

from services.kit import requests
from services.kit.db import Database, Transaction
from services.providers import epochs, owners, quotas, records, reservations, settlements, sweeps
from services.providers.budgets import Budgets
from services.providers.counters import Account, Counters
from services.providers.rebuilds import Rebuilds
from services.providers.settlements import Charge, Chargeable, Settlement
from triptych.providers.v1 import quota_service_pb2 as pb, usage_service_pb2 as usage_pb

SWEEP_SECONDS = 2.0
_log = structlog.get_logger()


@dataclass(slots=True)
class _Told:
    """What the counters were told of one tenant."""

    reservations: list[uuid.UUID] = field(default_factory=list)
    charges: list[uuid.UUID] = field(default_factory=list)


class Bookings:
    """Settles reservations, takes reports of use, and keeps counters and ledger together."""

    def __init__(self, *, db: Database, counters: Counters, rebuilds: Rebuilds, budgets: Budgets) -> None:
        self._db = db
        self._counters = counters
        self._rebuilds = rebuilds
        self._told: dict[str, _Told] = {}
        self._budgets = budgets

    async def commit(self, request: pb.CommitReservationRequest) -> pb.CommitReservationResponse:
        """Charge what was used."""
        act = partial(reservations.commit, owner=owners.caller())
        return await self.settle(request.reservation_id, lambda tx: requests.once(tx, request, act))  # type: ignore[no-any-return]

    async def release(self, request: pb.ReleaseReservationRequest) -> pb.ReleaseReservationResponse:
        """Give the hold back."""
        act = partial(reservations.release, owner=owners.caller())
        return await self.settle(request.reservation_id, lambda tx: requests.once(tx, request, act))  # type: ignore[no-any-return]

    async def record(self, request: usage_pb.RecordUsageRequest) -> usage_pb.RecordUsageResponse:
        """Charge what was used without a reservation."""
        charges: list[Charge] = []
        async with self._db.begin() as tx:
            answer = await requests.once(tx, request, partial(records.record, charges=charges))
        for charge in charges:
            await self.tell(charge)
        return answer

    async def settle(
        self, reservation_id: str, act: Callable[[Transaction], Awaitable[Any]], *, tenant_id: str | None = None
    ) -> Any:
        """Settle a reservation in one transaction and tell the counters. Work beside a call names the tenant."""
        async with self._db.begin(tenant=tenant_id) as tx:
            answer = await act(tx)
            settlement = await settlements.of_reservation(tx, reservation_id)
        await self.tell(settlement)
        return answer

    async def tell(self, settled: Chargeable) -> None:
        """Tell the counters of what was settled. Those that cannot be told are declared stale."""
        if isinstance(settled, Settlement) and settled.counted:
            return
        tenant_id = settled.accounts.own.tenant_id
        try:
            for account in await self._count(settled):
                await self._rebuilds.again(account)
        except RedisError as error:
            _log.warning("valkey unavailable; counters will be rebuilt", error=type(error).__name__)
            async with self._db.begin(tenant=tenant_id) as tx:
                await epochs.renew_all(tx, [account.owner for account in settled.accounts])
        if settled.used is None:
            return
        told = self._told.setdefault(tenant_id, _Told())
        told.reservations += settlements.reservations_of([settled])
        told.charges += settlements.charges_of([settled])
        await self._budgets.warn(settled)

    async def run(self) -> None:
        """Sweep for as long as the process serves."""
        while True:
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - the loop goes on, whatever one round met
                _log.exception("sweep of reservations failed")
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """End reservations whose time is over; rebuild counters that were not told of a use."""
        await self._mark_counted()
        async with self._db.begin(tenant="") as tx:
            tenants = await sweeps.tenants(tx)
        for tenant_id in tenants:
            await self._sweep_tenant(tenant_id)

    async def close(self) -> None:
        """Finish what was begun."""
        await self._mark_counted()

    async def _count(self, settled: Chargeable) -> list[Account]:
        if isinstance(settled, Charge):
            return await self._counters.charge(settled.accounts, settled.requests, settled.used)
        if settled.used is None:
            return await self._counters.release(settled.accounts, settled.hold_id)
        return await self._counters.commit(settled.accounts, settled.hold_id, settled.used)

    async def _sweep_tenant(self, tenant_id: str) -> None:
        async with self._db.begin(tenant=tenant_id) as tx:
            expired = await sweeps.expire(tx)
            whose, reservation_ids, charge_ids = await sweeps.uncounted(tx)
            now = await quotas.now(tx)
        whole = owners.tenant(tenant_id)
        await self._expire([Account(tenant_id, owner, 0, now) for owner in ({*expired, whole} if expired else ())])
        for owner in {*whose, whole} if whose else ():
            await self._rebuilds.rebuild(tenant_id, owner)
        if whose:
            await self._budgets.check(tenant_id)
        told = self._told.setdefault(tenant_id, _Told())
        told.reservations += reservation_ids
        told.charges += charge_ids

    async def _expire(self, accounts: Iterable[Account]) -> None:
        try:
            for account in accounts:
                await self._counters.expire(account)
        except RedisError as error:
            _log.warning("valkey unavailable; holds end there later", error=type(error).__name__)

    async def _mark_counted(self) -> None:
        """Note in one statement what was told; what is lost with the process costs a rebuild and nothing else."""
        told, self._told = self._told, {}
        for tenant_id, ids in told.items():
            async with self._db.begin(tenant=tenant_id) as tx:
                await sweeps.mark_counted(tx, ids.reservations, ids.charges)
