"""Engagements: what is held for one link of a call, what was used of it, and how it is settled.

Without a word of an answer the hold is given back; after one what was used until then is charged. What cannot be
settled now is settled beside the call; what a crash leaves is ended by time.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from services.kit import calls, faults, outbox, requests
from services.kit.db import Transaction
from services.providers import money, prompts, reservations
from services.providers.adapters import Piece, Prompt
from services.providers.admissions import Admissions
from services.providers.bookings import Bookings
from services.providers.chains import Link
from services.providers.owners import Owner
from services.providers.plans import Demand, Plan
from services.providers.reservations import ReservationNotFound, ReservationSettled
from triptych.providers.v1 import model_pb2, quota_service_pb2

HOLD_SLACK, LONGEST_HOLD = 60, 900
SETTLE_TRIES, SETTLE_PAUSE = 5, 0.5
FINISHES = {
    "stop": model_pb2.FINISH_REASON_STOP,
    "length": model_pb2.FINISH_REASON_LENGTH,
    "filtered": model_pb2.FINISH_REASON_FILTERED,
}
Act = Callable[[Transaction], Awaitable[Any]]
"""Settles a reservation in a transaction."""
_log = structlog.get_logger()


class Given(Exception):
    """The call with this request_id is over, and this was its answer."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer


@dataclass(slots=True)
class Call:
    """One call, over all its links."""

    request: Any
    streaming: bool
    owner: Owner
    tenant_id: str
    expires: float
    attempts: int = 0

    @property
    def left(self) -> float:
        """Seconds until it must be settled."""
        return self.expires - asyncio.get_running_loop().time()


@dataclass(slots=True)
class Engagement:
    """What is held for one link, and what was used of it so far."""

    call: Call
    link: Link
    plan: Plan
    reservation_id: str
    prompt: Prompt = field(repr=False)
    size: int = 0
    """Bytes of text that came."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish: str = ""
    whole: bool = False
    """The answer came to its end."""
    settled: bool = False

    def take(self, piece: Piece) -> None:
        """Add a piece of the answer."""
        self.size += len(piece.text.encode())
        self.input_tokens = piece.input_tokens if piece.input_tokens is not None else self.input_tokens
        self.output_tokens = piece.output_tokens if piece.output_tokens is not None else self.output_tokens
        self.finish = piece.finish if piece.finish is not None else self.finish
        self.whole = self.whole or piece.last

    def used(self) -> tuple[int, int, bool]:
        """Give input and output tokens, and whether that is an estimate: what breaks off was not counted to its end.

        A count that the ledger cannot price is none; what was held for the answer is charged then.
        """
        given, came, estimated = self._counted()
        if money.is_chargeable(given, came, *self.plan.prices):
            return given, came, estimated
        return self.plan.demand.input_tokens, self.plan.demand.output_tokens, True

    def _counted(self) -> tuple[int, int, bool]:
        guessed = prompts.output_tokens(self.size)
        given = prompts.input_tokens(self.prompt) if self.input_tokens is None else self.input_tokens
        if self.whole and self.output_tokens is not None:
            return given, self.output_tokens, self.input_tokens is None
        return given, max(guessed, self.output_tokens or 0), True


class Engagements:
    """Reserves before a call, and charges or gives back after it."""

    def __init__(self, *, admissions: Admissions, bookings: Bookings) -> None:
        self._admissions = admissions
        self._bookings = bookings
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Finish what was begun."""
        await asyncio.gather(*self._tasks)

    async def begin(self, call: Call, link: Link) -> Engagement:
        """Reserve the estimate; of two calls with one request_id the second meets the first here."""
        request, provider = call.request, link.provider
        prompt = prompts.of(request, longest=provider["max_tokens"])
        demand = Demand(
            provider_id=str(provider["id"]),
            operation=request.operation,
            input_tokens=prompts.input_tokens(prompt),
            output_tokens=prompt.max_tokens,
            seconds=min(int(call.left) + HOLD_SLACK, LONGEST_HOLD),
            invocation_id=request.request_id or None,
        )

        stored: list[str] = []

        async def store(tx: Transaction, plan: Plan) -> str:
            reservation = await reservations.store(tx, plan)
            stored.append(reservation.id)
            if (answer := await requests.recall(tx, request)) is not None:
                raise Given(answer)
            return reservation.id

        try:
            plan, answer = await self._admissions.admit(demand, store, lambda tx: requests.recall(tx, request))
        except asyncio.CancelledError:
            for reservation_id in stored:  # if it was committed nevertheless, nobody else knows
                self._later(reservation_id, call.tenant_id, _release(reservation_id, call.owner))
            raise
        if plan is None:
            raise Given(answer)
        return Engagement(call, link, plan, answer, prompt)

    async def commit(self, engagement: Engagement) -> model_pb2.Invocation:
        """Charge the whole answer. Should that not be possible now, the caller gets what was paid for nevertheless."""
        given, came, estimated = engagement.used()
        cost = money.cost(given, came, *engagement.plan.prices)
        invocation = model_pb2.Invocation(
            reservation_id=engagement.reservation_id,
            provider_id=str(engagement.link.provider["id"]),
            model_name=engagement.link.provider["model_name"],
            key_source=engagement.link.source,
            finish_reason=FINISHES.get(engagement.finish, model_pb2.FINISH_REASON_UNSPECIFIED),
            input_tokens=given,
            output_tokens=came,
            estimated=estimated,
            cost_usd=money.text(cost),
            attempts=engagement.call.attempts,
        )

        async def act(tx: Transaction, request: Any) -> Any:  # noqa: ARG001 - as requests.once calls it
            await _charge(tx, engagement, given, came)
            await outbox.record(tx, f"reservation:{engagement.reservation_id}", invocation)
            call = calls.current()
            return call.method.response(invocation=invocation)  # type: ignore[union-attr]

        try:
            request = engagement.call.request
            await self._bookings.settle(engagement.reservation_id, lambda tx: requests.once(tx, request, act))
            engagement.settled = True
        except (faults.Unavailable, faults.ResourceExhausted, faults.DeadlineExceeded) as fault:
            _log.warning("a call is charged later", reason=fault.reason, reservation=engagement.reservation_id)
            self.end(engagement)
        return invocation

    def end(self, engagement: Engagement) -> asyncio.Task[None]:
        """Settle beside the call: charge what was used, or give the hold back when not a word came."""
        engagement.settled = True
        release = _release(engagement.reservation_id, engagement.call.owner)

        async def charge(tx: Transaction) -> Any:
            given, came, _ = engagement.used()
            return await _charge(tx, engagement, given, came)

        act = charge if engagement.size or engagement.whole else release
        return self._later(engagement.reservation_id, engagement.call.tenant_id, act)

    def _later(self, reservation_id: str, tenant_id: str, act: Act) -> asyncio.Task[None]:
        """Settle without the deadline and the caller of the call, which may be over."""
        task = asyncio.create_task(self._settle(reservation_id, tenant_id, act), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _settle(self, reservation_id: str, tenant_id: str, act: Act) -> None:
        for attempt in range(SETTLE_TRIES):
            try:
                return await self._bookings.settle(reservation_id, act, tenant_id=tenant_id)  # type: ignore[no-any-return]
            except (ReservationSettled, ReservationNotFound):
                return None  # the call itself came as far as that, or never came to hold anything
            except faults.Fault as fault:
                _log.warning("a call is not settled yet", reason=fault.reason, attempt=attempt)
            await asyncio.sleep(SETTLE_PAUSE * 2**attempt)
        _log.error("a call was not settled; its hold ends by itself", reservation=reservation_id)
        return None


def _release(reservation_id: str, owner: Owner) -> Act:
    async def act(tx: Transaction) -> Any:
        request = quota_service_pb2.ReleaseReservationRequest(reservation_id=reservation_id)
        return await reservations.release(tx, request, owner=owner)

    return act


async def _charge(tx: Transaction, engagement: Engagement, given: int, came: int) -> Any:
    request = quota_service_pb2.CommitReservationRequest(
        reservation_id=engagement.reservation_id, input_tokens=given, output_tokens=came
    )
    return await reservations.commit(tx, request, owner=engagement.call.owner)
