"""Subjects: the personal values of everything about somebody are erased, however many there are, in steps.

A step is a transaction: values go, the log tells of it, and from then on what comes later of before is dropped. The
last one tells of the whole. Whoever is stopped goes on with the same request_id: what was done is what the log says. A
subject that is no plain id may be personal itself, an address for instance: the log names it by a keyed digest.
"""

import asyncio
import uuid
from dataclasses import dataclass, replace
from typing import Any

from services.audit import logs, redactions, tombstones
from services.audit.redactions import Telling
from services.kit import calls, faults
from services.kit.db import Database, Transaction
from triptych.audit.v1 import redaction_service_pb2 as pb

REDACTED, ERASED = "audit.subject.redact", "audit.subject.erase"
"""What the log says of the whole, and of each step before the last."""
STEP = 5000
"""Values of a step, and what else there is of the last event: no event is in two steps. Appends wait meanwhile."""
RESERVE_SECONDS = 3.0
"""What must be left of a call for another step."""
# Each way of being about somebody has an index of its own, which an OR would not use. The tenant stands at each, for
# the indexes' sake; row-level security says the same.
OF_SUBJECT = """
    DELETE FROM openings WHERE tenant_id = $1 AND (seq, path) IN (
        SELECT seq, path FROM (
            SELECT seq, path FROM openings WHERE tenant_id = $1 AND entity = $2
            UNION SELECT seq, path FROM openings WHERE tenant_id = $1 AND actor_id = $3
            UNION SELECT seq, path FROM openings_with($4::jsonb[])) found
        ORDER BY seq FETCH FIRST $5 ROWS WITH TIES)
    RETURNING seq, path
"""


async def redact(db: Database, request: pb.RedactSubjectRequest) -> pb.RedactSubjectResponse:
    """Erase the personal values of everything about somebody; DeadlineTooShort says what is done when time runs out."""
    erasure: Erasure | None = None
    while True:
        async with db.begin() as tx:
            erasure = erasure or Erasure.of(tx, request)
            answer = await erasure.go_on(tx)
        if answer is not None:
            return answer
        _check_time(erasure)


@dataclass(slots=True)
class Erasure:
    """How far a request has come."""

    request: pb.RedactSubjectRequest
    telling: Telling
    steps: int = 0
    erased: int = 0
    events: int = 0

    @classmethod
    def of(cls, tx: Transaction, request: pb.RedactSubjectRequest) -> "Erasure":
        """Begin, or begin to go on."""
        telling = Telling(
            event_id=redactions.id_of(tx.tenant_id, request.request_id),
            action=REDACTED,
            entity=_named(tx, request.subject),
            reason=request.reason,
            request_id=request.request_id,
        )
        return cls(request, telling)

    async def go_on(self, tx: Transaction) -> pb.RedactSubjectResponse | None:
        """Erase some values; the answer when none is left, None while there may be more."""
        await logs.lock(tx)  # before the rows, as whoever appends does
        told = await self.telling.find(tx)
        if told is None:
            await self._catch_up(tx)
        subject, actor_id, values = self.request.subject, self.request.subject.partition(":")[2], self.request.values
        gone = await tx.connection.fetch(OF_SUBJECT, tx.tenant_id, subject, actor_id, list(values), STEP)
        if told is not None:
            if gone:
                raise redactions.reused(self.request.request_id)
            return _answer(told)
        await tombstones.put(tx, subject, actor_id, values)
        facts = redactions.count(gone)
        self._add(facts)
        if len(gone) >= STEP:
            self.steps += 1
            await self._step().tell(tx, facts | {"step": self.steps})
            return None
        whole = {"erased": self.erased, "events": self.events} | ({"steps": self.steps + 1} if self.steps else {})
        return _answer(await self.telling.tell(tx, whole))

    async def _catch_up(self, tx: Transaction) -> None:
        """Count what others have done of the same request: a call before, or one at the same time."""
        while (told := await self._step(self.steps + 1).find(tx)) is not None:
            self.steps += 1
            self._add(told)

    def _step(self, number: int = 0) -> Telling:
        """Give what is said of a step, the present one unless another is named."""
        event_id = str(uuid.uuid5(uuid.UUID(self.telling.event_id), f"step {number or self.steps}"))
        return replace(self.telling, event_id=event_id, action=ERASED)

    def _add(self, facts: dict[str, Any]) -> None:
        self.erased += facts["erased"]
        self.events += facts["events"]


def _answer(told: dict[str, Any]) -> pb.RedactSubjectResponse:
    return pb.RedactSubjectResponse(erased=told["erased"], events=told["events"], redaction_event_id=told["event_id"])


def _check_time(erasure: Erasure) -> None:
    """End a call that has no time for another step, and say what is done: nothing of it is taken back."""
    call = calls.current()
    if call is None or call.expires - asyncio.get_running_loop().time() > RESERVE_SECONDS:
        return
    again = "the same request_id" if erasure.request.request_id else "the same subject"
    raise faults.DeadlineTooShort(
        f"{erasure.erased} values are erased, and there may be more: repeat with {again}, which goes on from here",
        erased=erasure.erased,
        events=erasure.events,
    )


def _named(tx: Transaction, subject: str) -> str:
    """Name a subject in the log: a kind and a UUID as they are, anything else by its digest."""
    if calls.UUID.fullmatch(subject.partition(":")[2].lower()):
        return subject
    return f"subject:{tombstones.digest(tx, 'subject', subject).hex()}"
