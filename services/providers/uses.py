"""How often keys were resolved, and when last, to the minute.

A row is written once a minute and not once a use; in between, uses are counted here. The audit log has each of them;
what a process that dies had not written is missing from the count and from nothing else.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from services.kit import clock
from services.kit.db import Database, Row, Transaction


class Uses:
    """What this process counted and did not write yet."""

    def __init__(self) -> None:
        self._waiting: dict[str, Counter[UUID]] = {}

    def is_due(self, row: Row) -> bool:
        """Say whether a key's row was not written in this minute yet."""
        last: datetime | None = row["last_use_time"]
        return last is None or last < clock.now().replace(second=0, microsecond=0)

    def add(self, tenant_id: str, uses: Mapping[UUID, int]) -> None:
        """Count uses."""
        self._waiting.setdefault(tenant_id, Counter()).update(uses)

    async def write(self, tx: Transaction, keys: set[UUID]) -> None:
        """Write what is counted of these keys. Rows that are locked are left for the next time: nobody waits here."""
        waiting = self._waiting.get(tx.tenant_id, Counter())
        counts = {key_id: waiting.pop(key_id) for key_id in keys if key_id in waiting}
        written: set[UUID] = set()
        try:
            rows = await tx.connection.fetch(_WRITE, list(counts), list(counts.values()))
            written = {row["id"] for row in rows}
        finally:
            self.add(tx.tenant_id, {key_id: uses for key_id, uses in counts.items() if key_id not in written})

    async def flush(self, db: Database) -> None:
        """Write all that is counted."""
        for tenant_id, waiting in list(self._waiting.items()):
            if waiting:
                async with db.begin(tenant=tenant_id) as tx:
                    await self.write(tx, set(waiting))
            if not waiting:
                self._waiting.pop(tenant_id, None)


_WRITE = """
WITH free AS (SELECT id FROM user_providers WHERE id = ANY($1) FOR UPDATE SKIP LOCKED)
UPDATE user_providers k SET last_use_time = date_trunc('minute', now()), use_count = use_count + used.times
FROM free JOIN unnest($1::uuid[], $2::bigint[]) AS used (id, times) USING (id)
WHERE k.id = free.id
RETURNING k.id
"""
