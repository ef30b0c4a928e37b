"""Unwrapped data keys, kept for about five minutes; never the keys that they open.

With them keys resolve while OpenBao is away. Whether a key may resolve at all is asked of PostgreSQL each time.
"""

import asyncio
import random
import time
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from services.kit.db import Row
from services.providers import envelopes
from services.providers.guards import Transit
from services.providers.secrets import Secret

SECONDS = 300.0
JITTER = 30.0
ENTRIES = 10_000
USES = 10_000


@dataclass(slots=True)
class _Entry:
    dek: Secret
    expires: float
    uses_left: int


class Deks:
    """The data keys that this process unwrapped."""

    def __init__(self, vault: Transit, *, entries: int = ENTRIES, uses: int = USES, seconds: float = SECONDS) -> None:
        self._vault = vault
        self._most = entries
        self._uses = uses
        self._seconds = seconds
        self._entries: OrderedDict[UUID, _Entry] = OrderedDict()
        self._unwrapping: dict[UUID, asyncio.Task[None]] = {}

    def find(self, key_id: UUID) -> Secret | None:
        """Give a data key to wipe after use, or None when it is not here any more."""
        entry = self._entries.get(key_id)
        if entry is None:
            return None
        if time.monotonic() >= entry.expires or entry.uses_left <= 0:
            self.drop(key_id)
            return None
        entry.uses_left -= 1
        self._entries.move_to_end(key_id)
        return entry.dek.duplicate()

    async def fetch(self, row: Row) -> None:
        """Have the data key of a key's row unwrapped and keep it; many who ask at once ask OpenBao once."""
        key_id: UUID = row["id"]
        task = self._unwrapping.get(key_id)
        if task is None:
            task = self._unwrapping[key_id] = asyncio.create_task(self._unwrap(row))
            task.add_done_callback(lambda ended: self._end(key_id, ended))
        await asyncio.shield(task)  # one who gives up must not take it from the others

    def drop(self, key_id: UUID) -> None:
        """Overwrite a data key and forget it."""
        entry = self._entries.pop(key_id, None)
        if entry is not None:
            entry.dek.wipe()

    def forget(self, key_id: str) -> None:
        """Forget the data key of a key that came over the wire."""
        self.drop(UUID(key_id))

    def clear(self) -> None:
        """Forget them all."""
        for key_id in list(self._entries):
            self.drop(key_id)

    def __len__(self) -> int:
        return len(self._entries)

    def _end(self, key_id: UUID, task: asyncio.Task[None]) -> None:
        self._unwrapping.pop(key_id, None)
        if not task.cancelled():
            task.exception()  # those who wait get it; when nobody waits any more, nobody needs it

    async def _unwrap(self, row: Row) -> None:
        dek = await envelopes.unwrap(self._vault, row)
        key_id: UUID = row["id"]
        self.drop(key_id)
        # Entries that were made together, as after a restart, do not all end together.
        expires = time.monotonic() + self._seconds + random.uniform(0, JITTER)  # noqa: S311 - jitter, not a secret
        self._entries[key_id] = _Entry(dek, expires, self._uses)
        while len(self._entries) > self._most:
            self.drop(next(iter(self._entries)))
