"""Alarms: a source that fell silent, or that owes numbers for long, is told in the service's own log and as metrics.

What was while this process did not run is nobody's silence: sources have a moment to be heard before anybody is told.
"""

import asyncio
from datetime import timedelta

import structlog
from prometheus_client import CollectorRegistry, Gauge

from services.audit.signers import FAILURES
from services.audit.sources import Bounds
from services.kit import clock
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row

LOOK_SECONDS = 60.0
GRACE = timedelta(seconds=90)
"""From the start on, for sources to be heard: longer than a relay's lease and the pause after a failed heartbeat."""
_SILENT = "SELECT * FROM silent_sources($1)"
_log = structlog.get_logger()


class Watch:
    """Says when a source falls silent, or owes numbers for long; once, and again when it is over."""

    def __init__(self, *, db: Database, bounds: Bounds, registry: CollectorRegistry, grace: timedelta = GRACE) -> None:
        self._db = db
        self._bounds = bounds
        self._patience = clock.now() + grace
        self._said: dict[str, str] = {}
        names = "triptych_audit_source_silence_seconds", "triptych_audit_source_missing"
        texts = "Since the source was last heard", "Numbers of the source that are overdue, in all logs"
        self._silence = Gauge(names[0], texts[0], ["source"], registry=registry)
        self._missing = Gauge(names[1], texts[1], ["source"], registry=registry)

    async def run(self) -> None:
        """Look for as long as the process serves."""
        while True:
            try:
                await self.look()
            except FAILURES as error:
                _log.warning("sources cannot be looked at", error=type(error).__name__, text=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> dict[str, str]:
        """Look once; give what is wrong, by source."""
        now = clock.now()
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            rows = await tx.connection.fetch(_SILENT, now - self._bounds.missing)
        found: dict[str, str] = {}
        for row in rows:
            silence = max(now - row["seen_time"], timedelta())
            self._silence.labels(row["source"]).set(silence.total_seconds())
            self._missing.labels(row["source"]).set(row["missing"])
            if (problem := self._problem(row, silence)) and now >= self._patience:
                found[row["source"]] = problem
        self._tell(found)
        return found

    def _problem(self, row: Row, silence: timedelta) -> str:
        problems = []
        if silence > self._bounds.silence:
            problems.append("silent")
        if row["logs"]:
            problems.append(f"{row['missing']} numbers missing in {row['logs']} logs")
        return ", ".join(problems)

    def _tell(self, found: dict[str, str]) -> None:
        for source, problem in found.items():
            if self._said.get(source) != problem:
                _log.error("a source of the log is not well", source=source, problem=problem)
        for source in self._said.keys() - found.keys():
            _log.info("a source of the log is well again", source=source)
        self._said = found
