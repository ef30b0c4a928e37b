"""Opening keys for services that are about to call a provider: looked up, opened and audited, each time.

Those of one tenant that ask in the same moment share a transaction: while one is under way the next ones gather. So
each use is in the audit log before its key goes out, state and end of a key are asked of PostgreSQL each time, and
nevertheless a use costs a fraction of a transaction.
"""

import asyncio
import contextvars
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from services.kit import calls, faults, outbox
from services.kit.db import Database, Row, Transaction
from services.providers import envelopes, owners, providers
from services.providers.deks import Deks
from services.providers.keys import KeyNotFound
from services.providers.secrets import Secret
from services.providers.uses import Uses
from triptych.providers.v1 import key_service_pb2 as pb

ACTION = "providers.key.resolve"
TRIES = 3
MOST = 64
"""Uses that share a transaction at most."""
PAUSE, LONGEST_PAUSE = 0.00025, 0.004
"""Seconds for each use of a transaction in which more gather before the next; who is alone does not wait."""
SECONDS = 5.0
"""Time that such a transaction gets."""


class Wanted(NamedTuple):
    """Which key is asked for."""

    owner_kind: str
    owner_id: str
    provider_id: str
    destination_host: str
    key_id: str | None


class Opened(NamedTuple):
    """A key's row, and the key itself unless its data key is not in memory."""

    row: Row
    api_key: str | None


@dataclass(slots=True)
class _Waiting:
    """One use that waits for its transaction."""

    wanted: Wanted
    answer: asyncio.Future[Opened]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """Of the RPC: the event says who it was."""


class Openings:
    """Opens keys."""

    def __init__(self, *, db: Database, deks: Deks, uses: Uses) -> None:
        self._db = db
        self._deks = deks
        self._uses = uses
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def resolve(self, request: pb.ResolveKeyRequest) -> pb.ResolveKeyResponse:
        """Open a key. With its data key in memory that takes PostgreSQL and nobody else."""
        wanted = _wanted(request)
        for _ in range(TRIES):
            row, api_key = await self._open(calls.caller().tenant_id, wanted)
            if api_key is not None:
                return pb.ResolveKeyResponse(key_id=str(row["id"]), api_key=api_key)
            await self._deks.fetch(row)
        raise faults.ServerBusy("too many keys are being opened at once; retry")

    async def _open(self, tenant_id: str, wanted: Wanted) -> Opened:
        waiting = _Waiting(wanted, asyncio.get_running_loop().create_future())
        queue = self._waiting.get(tenant_id)
        if queue is None:
            queue = self._waiting[tenant_id] = deque()
            # Without the context of this RPC: the others' deadlines are not its own.
            task = asyncio.create_task(self._drain(tenant_id, queue), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.append(waiting)
        return await waiting.answer

    async def _drain(self, tenant_id: str, queue: deque[_Waiting]) -> None:
        """One transaction after the other, for as long as somebody waits."""
        try:
            while queue:
                batch = [queue.popleft() for _ in range(min(len(queue), MOST))]
                await self._serve(tenant_id, [each for each in batch if not each.answer.done()])
                if len(batch) > 1:
                    await asyncio.sleep(min(PAUSE * len(batch), LONGEST_PAUSE))
        finally:
            del self._waiting[tenant_id]
            _fail(queue, faults.ServerBusy("the server stops; retry"))

    async def _serve(self, tenant_id: str, batch: list[_Waiting]) -> None:
        """Answer these; what goes wrong is everybody's."""
        try:
            async with asyncio.timeout(SECONDS), self._db.begin(tenant=tenant_id) as tx:
                answers = await self._open_all(tx, batch)
        except TimeoutError:
            _fail(batch, faults.DependencyUnavailable("the database does not answer; retry", dependency="postgres"))
        except BaseException as error:
            _fail(batch, error)
            if not isinstance(error, Exception):
                raise
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(answer, faults.Fault):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)

    async def _open_all(self, tx: Transaction, batch: list[_Waiting]) -> list[Opened | faults.Fault]:
        found = await _find(tx, {waiting.wanted for waiting in batch})
        opened = {wanted: self._open_one(wanted, found.get(wanted)) for wanted in {each.wanted for each in batch}}
        answers = [opened[waiting.wanted] for waiting in batch]
        used = [
            (each, answer.row)
            for each, answer in zip(batch, answers, strict=True)
            if isinstance(answer, Opened) and answer.api_key is not None
        ]
        if used:
            await outbox.record_all(tx, [each.context.run(_event, tx.tenant_id, row) for each, row in used])
            self._uses.add(tx.tenant_id, Counter(row["id"] for _, row in used))
            if due := {row["id"] for _, row in used if self._uses.is_due(row)}:
                await self._uses.write(tx, due)
        return answers

    def _open_one(self, wanted: Wanted, row: Row | None) -> Opened | faults.Fault:
        """Open what was found, once for all who ask for it."""
        if row is None:
            return KeyNotFound(provider_id=wanted.provider_id)
        try:
            providers.check_usable(row, str(row["provider_id"]))
            dek = self._deks.find(row["id"])
            return Opened(row, None if dek is None else _text(row, dek))
        except faults.Fault as fault:
            return fault


def _text(row: Row, dek: Secret) -> str:
    """Open a key and leave nothing behind but what goes out."""
    try:
        secret = envelopes.unseal(row, dek)
    finally:
        dek.wipe()
    text = secret.reveal_text()
    secret.wipe()
    return text


def _wanted(request: pb.ResolveKeyRequest) -> Wanted:
    owner, host = owners.of(request.owner), request.destination_host.lower()
    if "\0" in owner.id or "\0" in host:  # PostgreSQL would refuse it, and the others' with it
        raise KeyNotFound(provider_id=request.provider_id)
    return Wanted(owner.kind, owner.id, request.provider_id.lower(), host, request.key_id.lower() or None)


async def _find(tx: Transaction, wanted: set[Wanted]) -> dict[Wanted, Row]:
    asked = list(wanted)
    rows = await tx.connection.fetch(_FIND, *([list(column) for column in zip(*asked, strict=True)] or [[]] * 5))
    return {asked[row["place"] - 1]: row for row in rows}


def _event(tenant_id: str, row: Row) -> dict[str, object]:
    """Who opened it, and for where."""
    details = {
        "owner": str(owners.in_row(row)),
        "provider_id": str(row["provider_id"]),
        "destination_host": row["destination_host"],
        "service": calls.caller().service or "providers",
    }
    return outbox.compose(tenant_id, f"key:{row['id']}", details, action=ACTION)


def _fail(batch: Iterable[_Waiting], error: BaseException) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)


# An active key comes before one that is being rotated out.
_FIND = """
SELECT asked.place, k.id, k.tenant_id, k.owner_kind, k.owner_id, k.provider_id, k.destination_host,
       k.encrypted_api_key, k.encrypted_dek, k.last_use_time, p.active, p.archive_time
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[], $5::uuid[]) WITH ORDINALITY
     AS asked (owner_kind, owner_id, provider_id, destination_host, key_id, place)
CROSS JOIN LATERAL (
    SELECT * FROM user_providers k
    WHERE k.owner_kind = asked.owner_kind AND k.owner_id = asked.owner_id AND k.provider_id = asked.provider_id
      AND k.destination_host = asked.destination_host AND k.state IN ('active', 'rotating')
      AND (k.expire_time IS NULL OR k.expire_time > now()) AND (asked.key_id IS NULL OR k.id = asked.key_id)
    ORDER BY k.state, k.id DESC LIMIT 1) k
JOIN providers p ON p.tenant_id = k.tenant_id AND p.id = k.provider_id
"""
