"""Admission of work to a quota: counters in Valkey before, the ledger in PostgreSQL after, and repairs between the two.

The truth is PostgreSQL. Each owner's row there has an epoch, and counters count only under it: whoever finds them
missing or of another epoch rebuilds them under a new one, and a reservation that was admitted under an old one is
refused by its insert and begins again. So no more is admitted than the limit, whichever counters were lost. Without
Valkey the owner's row is locked and the ledger summed instead; nothing is ever let through unseen.
"""

import asyncio
import contextvars
import uuid
from functools import partial
from weakref import WeakValueDictionary

import structlog
from redis.exceptions import RedisError

from services.kit import faults, requests
from services.kit.db import Database
from services.providers import balances, quotas, reservations, sweeps
from services.providers.counters import Account, Counters
from services.providers.owners import Owner
from services.providers.reservations import EpochPassed, Plan, QuotaExceeded, Settlement
from triptych.providers.v1 import quota_service_pb2 as pb

TRIES = 5
SWEEP_SECONDS = 2.0
GIVE_BACK_SECONDS = 0.5
_log = structlog.get_logger()


class _Turn:
    """One rebuild at a time for each owner, and what it came to."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.epoch = 0


class Admissions:
    """Reserves, settles, and keeps counters and ledger together."""

    def __init__(self, *, db: Database, counters: Counters) -> None:
        self._db = db
        self._counters = counters
        self._turns: WeakValueDictionary[tuple[str, Owner], _Turn] = WeakValueDictionary()
        self._counted: dict[str, list[uuid.UUID]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def reserve(self, request: pb.ReserveQuotaRequest) -> pb.ReserveQuotaResponse:
        """Hold in all windows of the caller's quota, or raise."""
        for _ in range(TRIES):
            async with self._db.begin() as tx:
                if (answer := await requests.recall(tx, request)) is not None:
                    return answer  # type: ignore[no-any-return]
                plan = await reservations.plan(tx, request)
            try:
                if not await self._hold(plan):
                    continue
            except RedisError as error:
                _log.warning("valkey unavailable; the quota is kept in PostgreSQL", error=type(error).__name__)
                break
            try:
                return await self._insert(request, plan)
            except EpochPassed:
                continue
        async with self._db.begin() as tx:
            return await requests.once(tx, request, partial(balances.admit, plan=plan))

    async def commit(self, request: pb.CommitReservationRequest) -> pb.CommitReservationResponse:
        """Charge what was used."""
        async with self._db.begin() as tx:
            answer = await requests.once(tx, request, reservations.commit)
            settlement = await reservations.settlement(tx, request.reservation_id)
        await self._tell(settlement)
        return answer

    async def release(self, request: pb.ReleaseReservationRequest) -> pb.ReleaseReservationResponse:
        """Give the hold back."""
        async with self._db.begin() as tx:
            answer = await requests.once(tx, request, reservations.release)
            settlement = await reservations.settlement(tx, request.reservation_id)
        await self._tell(settlement)
        return answer

    async def rebuild(self, tenant_id: str, owner: Owner, *, seen: int | None = None) -> None:
        """Make an owner's counters anew from the ledger; `seen` says which epoch was found wanting.

        While Valkey is away they are left stale, so that whoever needs them next makes them.
        """
        turn = self._turns.setdefault((tenant_id, owner), _Turn())
        async with turn.lock:
            if seen is not None and turn.epoch > seen:
                return  # somebody here did it while we waited
            async with self._db.begin(tenant=tenant_id) as tx:
                balance = await balances.renew(tx, owner, seen=seen)
            if balance is None:
                return
            try:
                await self._counters.load(balance.account, balance.committed, balance.holds)
                turn.epoch = balance.account.epoch
            except RedisError as error:
                _log.warning("valkey unavailable; counters stay stale", error=type(error).__name__)

    async def run(self) -> None:
        """Sweep for as long as the process serves."""
        while True:
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - the loop goes on, whatever one round met
                _log.exception("sweep of reservations failed")
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """End reservations whose time is over; rebuild counters that were not told of a commit."""
        await self._mark_counted()
        async with self._db.begin(tenant="") as tx:
            tenants = await sweeps.tenants(tx)
        for tenant_id in tenants:
            await self._sweep_tenant(tenant_id)

    async def close(self) -> None:
        """Finish what was begun."""
        await asyncio.gather(*self._tasks)
        await self._mark_counted()

    async def _hold(self, plan: Plan) -> bool:
        """Hold in the counters; False says that they were stale and are rebuilt."""
        outcome = await self._counters.reserve(plan.account, plan.hold, plan.limits)
        if outcome.stale:
            await self.rebuild(plan.account.tenant_id, plan.account.owner, seen=plan.account.epoch)
            return False
        if outcome.exceeded:
            raise QuotaExceeded(outcome.exceeded, plan.limits, plan.account)
        return True

    async def _insert(self, request: pb.ReserveQuotaRequest, plan: Plan) -> pb.ReserveQuotaResponse:
        """Store what the counters hold. When that fails, or was done before, the hold goes back."""
        shared = bool(request.request_id)
        try:
            async with self._db.begin() as tx:
                answer = await requests.once(tx, request, partial(reservations.insert_held, plan=plan))
        except EpochPassed:
            raise  # the hold stands in counters that do not count any more
        except BaseException:
            self._start(plan, shared=shared)
            raise
        if shared and answer.reservation.expire_time.ToMicroseconds() != _microseconds(plan):
            self._start(plan, shared=shared)
        return answer

    async def _give_back(self, plan: Plan, *, shared: bool) -> None:
        """Release a hold that has no reservation. Twins of one request share a hold, so theirs is counted anew."""
        account = plan.account
        async with self._db.begin(tenant=account.tenant_id) as tx:
            state = await reservations.state_of_hold(tx, plan.hold.id)
        if state == "held":
            return
        if shared:
            await self.rebuild(account.tenant_id, account.owner)
        else:
            await self._counters.release(account, plan.hold.id)

    async def _tell(self, settlement: Settlement) -> None:
        """Tell the counters of a settlement. Whoever cannot be told is declared stale."""
        account, used = settlement.account, settlement.used
        if settlement.counted:
            return
        try:
            if used is None:
                done = await self._counters.release(account, settlement.hold_id)
            else:
                done = await self._counters.commit(account, settlement.hold_id, used)
            if not done:
                await self.rebuild(account.tenant_id, account.owner)
        except RedisError as error:
            _log.warning("valkey unavailable; counters will be rebuilt", error=type(error).__name__)
            async with self._db.begin(tenant=account.tenant_id) as tx:
                await quotas.renew(tx, account.owner)
        if used is not None:
            self._counted.setdefault(account.tenant_id, []).append(settlement.reservation_id)

    async def _sweep_tenant(self, tenant_id: str) -> None:
        async with self._db.begin(tenant=tenant_id) as tx:
            expired = await sweeps.expire(tx)
            uncounted = await sweeps.uncounted(tx)
            now = await quotas.now(tx)
        try:
            for owner in expired:
                await self._counters.expire(Account(tenant_id, owner, 0, now))
        except RedisError as error:
            _log.warning("valkey unavailable; holds end there later", error=type(error).__name__)
        for owner, ids in uncounted.items():
            await self.rebuild(tenant_id, owner)
            self._counted.setdefault(tenant_id, []).extend(ids)

    async def _mark_counted(self) -> None:
        """Note in one statement what was told; what is lost with the process costs a rebuild and nothing else."""
        counted, self._counted = self._counted, {}
        for tenant_id, ids in counted.items():
            async with self._db.begin(tenant=tenant_id) as tx:
                await sweeps.mark_counted(tx, ids)

    def _start(self, plan: Plan, *, shared: bool) -> None:
        """Give a hold back beside the call, which may be over: without its deadline and its caller."""
        task = asyncio.create_task(self._try_to_give_back(plan, shared=shared), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try_to_give_back(self, plan: Plan, *, shared: bool) -> None:
        """What failed the insert may fail this too, for a moment."""
        for attempt in range(TRIES):
            try:
                return await self._give_back(plan, shared=shared)
            except (faults.Fault, RedisError) as error:
                _log.warning("a hold was not given back yet", error=type(error).__name__, attempt=attempt)
            await asyncio.sleep(GIVE_BACK_SECONDS)
        _log.error("a hold was not given back; it ends by itself", tenant=plan.account.tenant_id)
        return None


def _microseconds(plan: Plan) -> int:
    moment = plan.hold.expire_time
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
