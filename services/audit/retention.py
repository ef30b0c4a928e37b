"""Retention: what time brings. Months leave the log, personal values and archives end with their class.

Personal values of a class that has expired are erased wherever their event is. Months and archive files are touched
only where an operator has said so in the settings, or does it by command.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import structlog

from services.audit import archives, logs, manifests, redactions
from services.audit.logs import Own
from services.audit.retirements import NotCovered, Retirements
from services.audit.signers import FAILURES
from services.audit.verifier import Bad
from services.kit import clock
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row

EVERY_SECONDS = 3600.0
RETRY_SECONDS = 30.0
LOGS = 200
"""Logs that one look finds."""
_OLD_OPENINGS = "SELECT * FROM logs_with_old_openings($1, $2, $3)"
_OLD_ARCHIVES = "SELECT * FROM logs_with_old_archives($1, $2)"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rules:
    """What is kept how long."""

    days: Mapping[str, int]
    """Days of each class."""
    online_days: int = 0
    """Days after which a month leaves the log by itself; 0: only by command."""
    folder: Path | None = None
    """Where the archives are."""
    delete_archives: bool = False


class Keeper:
    """Does what is due, again and again."""

    def __init__(self, *, db: Database, rules: Rules, retirements: Retirements | None) -> None:
        self._db = db
        self._rules = rules
        self._retirements = retirements

    async def run(self) -> None:
        """Do what is due for as long as the process serves."""
        while True:
            pause = EVERY_SECONDS
            try:
                await self.look()
            except NotCovered as wait:
                _log.info("retirement goes on later", text=str(wait))
                pause = RETRY_SECONDS
            except (Bad, *FAILURES) as error:
                _log.error("retention failed; retried", error=type(error).__name__, text=str(error))
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Do once what is due."""
        await self.erase_values()
        if self._retirements is not None and self._rules.online_days:
            for month in await self._retirements.plan(self._due()):
                await self._retirements.retire(month.begin)
        if self._rules.delete_archives:
            await self.delete_archives()

    async def erase_values(self) -> int:
        """Erase personal values of events whose class has expired."""
        erased = 0
        for name, days in self._rules.days.items():
            before = clock.now() - timedelta(days=days)
            while tenants := await self._tenants(_OLD_OPENINGS, name, before, LOGS):
                for tenant_id in tenants:
                    while gone := await self._expire(tenant_id, name, before):
                        erased += gone
        return erased

    async def _expire(self, tenant_id: str, name: str, before: datetime) -> int:
        async with self._db.begin(tenant=tenant_id) as tx:
            return await redactions.expire(tx, name, before)

    async def delete_archives(self) -> int:
        """Delete the files of classes that have expired; each log is told before its file goes."""
        now, deleted = clock.now(), 0
        while tenants := await self._tenants(_OLD_ARCHIVES, now, LOGS):
            for tenant_id in tenants:
                deleted += await self._delete_archives(tenant_id, now)
        return deleted

    async def _delete_archives(self, tenant_id: str, now: datetime) -> int:
        if self._rules.folder is None:
            raise ValueError("archives are deleted only where the settings say where they are")
        async with self._db.begin(tenant=tenant_id) as tx:
            rows = await manifests.expired(tx, now)
        for row in rows:
            await archives.aside(archives.delete, self._rules.folder, row["name"])  # again, if it stopped after this
            async with self._db.begin(tenant=tenant_id) as tx:
                await logs.lock(tx)
                if await manifests.deleted(tx, row, now):
                    await logs.record(tx, _deletion(row))
        return len(rows)

    async def _tenants(self, statement: str, *arguments: object) -> list[str]:
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            return [str(row[0]) for row in await tx.connection.fetch(statement, *arguments)]

    def _due(self) -> date:
        """Give the month before which all months are old enough: those that ended so many days ago."""
        return (clock.now() - timedelta(days=self._rules.online_days)).date().replace(day=1)


def _deletion(row: Row) -> Own:
    event_id = manifests.deletion_id(row)
    payload = {"name": row["name"], "sha256": row["sha256"].hex(), "entries": row["entries"]}
    return Own(event_id=event_id, entity=f"month:{row['month']:%Y-%m}", action="audit.archive.delete", payload=payload)
