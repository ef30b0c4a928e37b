"""Admission of work to quotas: counters in Valkey before, a reservation in PostgreSQL after.

The truth is PostgreSQL. The rows of owner and tenant there have epochs, and counters count only under them: whoever
finds counters missing or of another epoch rebuilds them under a new one, and a reservation that was admitted under an
old one is refused by its insert and begins again. So no more is admitted than the limit, whichever counters were lost.
Without Valkey the rows are locked and the ledger summed instead; nothing is ever let through unseen.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import structlog
from redis.exceptions import RedisError

from services.kit import faults, requests
from services.kit.db import Database, Transaction
from services.providers import balances, plans, reservations, terms
from services.providers.counters import Counters
from services.providers.epochs import EpochPassed
from services.providers.plans import Demand, Plan, QuotaExceeded
from services.providers.rebuilds import Rebuilds
from services.providers.terms import Shelf
from triptych.providers.v1 import quota_service_pb2 as pb

TRIES = 5
GIVE_BACK_SECONDS = 0.5
LONGEST_WAIT = 2.0
"""Seconds for which the next try waits until what the one before held is given back."""
Answer = TypeVar("Answer")
Store = Callable[[Transaction, Plan], Awaitable[Answer]]
"""Stores the reservation of a plan that was admitted, and gives what is to be answered."""
Recall = Callable[[Transaction], Awaitable[Any]]
"""Gives the answer that was given before, or None."""
_log = structlog.get_logger()


class TermsPassed(Exception):
    """Provider, prices, configuration or quota are not what they were when they were seen: look again."""


class Admissions:
    """Reserves."""

    def __init__(self, *, db: Database, counters: Counters, rebuilds: Rebuilds) -> None:
        self._db = db
        self._counters = counters
        self._rebuilds = rebuilds
        self._shelf = Shelf()
        self._tasks: set[asyncio.Task[None]] = set()

    async def reserve(self, request: pb.ReserveQuotaRequest) -> pb.ReserveQuotaResponse:
        """Hold in all windows of the caller's quota and the tenant's, or raise."""

        async def store(tx: Transaction, plan: Plan) -> pb.ReserveQuotaResponse:
            return await requests.once(tx, request, partial(reservations.answer, plan=plan))

        demand = Demand.of(request)
        plan, answer = await self.admit(demand, store, lambda tx: requests.recall(tx, request))
        if (
            demand.request_id
            and plan is not None
            and _microseconds(plan) != answer.reservation.expire_time.ToMicroseconds()
        ):
            self._start(plan)  # a twin was faster
        return answer  # type: ignore[no-any-return]

    async def admit(self, demand: Demand, store: Store[Any], recall: Recall) -> tuple[Plan | None, Any]:
        """Admit and store; without a plan when it had been done before."""
        if (done := await self._admit_known(demand, store)) is not None:
            return done
        for attempt in range(TRIES):
            async with self._db.begin() as tx:
                if (answer := await recall(tx)) is not None:
                    return None, answer
                seen = await terms.see(tx, demand.provider_id)
            plan = plans.make(demand, seen)
            self._shelf.keep(seen)
            try:
                if not await self._hold(plan):
                    continue
            except QuotaExceeded:
                if attempt and demand.request_id:
                    self._start(plan)  # one of the two accounts may hold it since the attempt before
                raise
            except RedisError as error:
                _log.warning("valkey unavailable; the quota is kept in PostgreSQL", error=type(error).__name__)
                break
            try:
                return plan, await self._insert(plan, store)
            except EpochPassed:
                if not demand.request_id:
                    # It stands in the account whose epoch did not pass; the next try has another name.
                    await self._undo(plan)
        async with self._db.begin() as tx:
            plan = await balances.admit(tx, plan)
            return plan, await store(tx, plan)

    async def close(self) -> None:
        """Finish what was begun."""
        await asyncio.gather(*self._tasks)

    async def _admit_known(self, demand: Demand, store: Store[Answer]) -> tuple[Plan, Answer] | None:
        """Admit under terms that were seen lately; None where these do not let it in: then one has to look.

        A request_id may have had its answer, which is seen by looking.
        """
        known = None if demand.request_id else self._shelf.find(demand.provider_id)
        if known is None:
            return None
        try:
            plan = plans.make(demand, known)
            if await self._hold(plan):
                return plan, await self._insert(plan, store, known=True)
        except (EpochPassed, TermsPassed):
            await self._undo(plan)  # what is tried next has another name
        except RedisError:
            self._start(plan)  # it may hold
        except (QuotaExceeded, *plans.REFUSALS):
            pass  # looking anew finds out whether that is so, and says it
        self._shelf.drop(demand.provider_id)
        return None

    async def _hold(self, plan: Plan) -> bool:
        """Hold in the counters; False says that they were stale and are rebuilt."""
        try:
            outcome = await self._counters.reserve(plan.accounts, plan.hold, plan.limits)
        except asyncio.CancelledError:
            self._start(plan)  # it may hold, and nobody else knows
            raise
        for account in outcome.stale:
            await self._rebuilds.again(account)
        if outcome.exceeded:
            raise QuotaExceeded(outcome.exceeded, plan.limits, plan.accounts.own)
        return not outcome.stale

    async def _insert(self, plan: Plan, store: Store[Answer], *, known: bool = False) -> Answer:
        """Store what the counters hold. When that fails, the hold goes back."""
        try:
            async with self._db.begin() as tx:
                if not await terms.hold(tx, plan.terms) and known:
                    raise TermsPassed  # noqa: TRY301 - the transaction ends with it
                return await store(tx, plan)
        except (EpochPassed, TermsPassed):
            raise
        except BaseException:
            self._start(plan)
            raise

    async def _undo(self, plan: Plan) -> None:
        """Give a hold back before the next try, which it would stand in the way of."""
        await asyncio.wait({self._start(plan)}, timeout=LONGEST_WAIT)

    def _start(self, plan: Plan) -> asyncio.Task[None]:
        """Give a hold back beside the call, which may be over: without its deadline and its caller."""
        task = asyncio.create_task(self._try_to_give_back(plan), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _try_to_give_back(self, plan: Plan) -> None:
        """What failed the insert may fail this too, for a moment."""
        for attempt in range(TRIES):
            try:
                return await self._give_back(plan)
            except (faults.Fault, RedisError) as error:
                _log.warning("a hold was not given back yet", error=type(error).__name__, attempt=attempt)
            await asyncio.sleep(GIVE_BACK_SECONDS)
        _log.error("a hold was not given back; it ends by itself", tenant=plan.accounts.own.tenant_id)
        return None

    async def _give_back(self, plan: Plan) -> None:
        """Release a hold that has no reservation. Twins of one request share a hold, so theirs is counted anew."""
        own = plan.accounts.own
        async with self._db.begin(tenant=own.tenant_id) as tx:
            state = await reservations.state_of_hold(tx, plan.hold.id)
        if state == "held":
            return
        if not plan.demand.request_id:
            await self._counters.release(plan.accounts, plan.hold.id)
            return
        for account in plan.accounts:
            await self._rebuilds.again(account)  # unless that was done since: what had no reservation is gone then


def _microseconds(plan: Plan) -> int:
    moment = plan.hold.expire_time
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
