"""Sources: what came of each service into each log, what it says it sent, and when it was last heard.

None of it is evidence; the numbers in the log are. It shows what those cannot: that nothing comes any more.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.audit import checkpoints
from services.audit.entries import Entry
from services.audit.verifier import log_name
from services.kit import clock
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Transaction
from services.kit.faults import CallerNotPermitted
from services.kit.paging import Page
from triptych.audit.v1 import source_service_pb2 as pb

OWN = "audit"
"""Whose numbers are given in the log's own transaction: none can be missing."""
_ADD = """
    WITH known AS (
        INSERT INTO emitters SELECT DISTINCT unnest($2::text[]), now() ON CONFLICT DO NOTHING)
    INSERT INTO sources AS s (tenant_id, source, events, last_seq, missing_time)
    SELECT $1, source, events, last_seq, CASE WHEN last_seq > events THEN now() END
    FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS given (source, events, last_seq)
    ON CONFLICT (tenant_id, source) DO UPDATE SET events = s.events + excluded.events,
        last_seq = greatest(s.last_seq, excluded.last_seq),
        missing_time = CASE WHEN greatest(s.declared_seq, s.last_seq, excluded.last_seq) > s.events + excluded.events
            THEN coalesce(s.missing_time, now()) END
"""
_REPORT = "SELECT report_source($1, $2::uuid[], $3::bigint[])"
_COVERING = "SELECT * FROM covering_checkpoints($1::uuid[], $2::bigint[])"
_LIST = "SELECT * FROM list_sources($1, $2::uuid, $3)"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is borne of a source."""

    silence: timedelta
    missing: timedelta


async def add(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Count new entries by source: one statement for all of them."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for entry in entries:
        if entry.envelope.source != OWN:
            numbers[entry.envelope.source].append(entry.envelope.source_seq)
    if numbers:
        rows = [(source, len(each), max(each)) for source, each in sorted(numbers.items())]
        await tx.connection.execute(_ADD, tx.tenant_id, *map(list, zip(*rows, strict=True)))


async def report(db: Database, source: str, marks: Iterable[pb.SourceMark]) -> pb.ReportSourceResponse:
    """Take down that a source is alive and how far it is; give the checkpoints that it asks for."""
    said = {mark.tenant_id.lower() or SYSTEM_TENANT: mark for mark in marks}
    asked = {tenant_id: mark.min_size for tenant_id, mark in said.items() if mark.min_size}
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        await tx.connection.execute(_REPORT, source, list(said), [mark.last_seq for mark in said.values()])
        rows = await tx.connection.fetch(_COVERING, list(asked), list(asked.values())) if asked else []
    return pb.ReportSourceResponse(checkpoints=[checkpoints.wire(row) for row in rows])


async def page(tx: Transaction, page: Page, bounds: Bounds) -> pb.ListSourcesResponse:
    """Give one page of all sources of the installation, to whoever runs it."""
    if tx.tenant_id != SYSTEM_TENANT:
        raise CallerNotPermitted(
            "sources are those of the whole installation: only admins of the system's tenant may list them",
            permission="audit.read",
        )
    source, tenant_id = page.after if page.after is not None else (None, None)
    after = uuid.UUID(tenant_id) if tenant_id is not None else None
    rows = await tx.connection.fetch(_LIST, source, after, page.limit)
    kept, token = page.end(rows, key=lambda row: (row["source"], row["tenant_id"]))
    now = clock.now()
    return pb.ListSourcesResponse(sources=[_wire(row, now, bounds) for row in kept], next_page_token=token)


def _wire(row: Row, now: datetime, bounds: Bounds) -> pb.Source:
    highest = max(row["last_seq"], row["declared_seq"])
    # Numbers that never came are told apart by whether something came after them.
    missing = max(highest - row["events"], 0)
    undelivered = min(max(row["declared_seq"] - row["last_seq"], 0), missing)
    made = pb.Source(
        source=row["source"],
        log_id=log_name(str(row["tenant_id"])),
        events=row["events"],
        last_seq=row["last_seq"],
        declared_seq=row["declared_seq"],
        gaps=missing - undelivered,
        undelivered=undelivered,
        missing_time=row["missing_time"],
        seen_time=row["seen_time"],
    )
    overdue = row["missing_time"] is not None and now - row["missing_time"] > bounds.missing
    if row["seen_time"] is not None:
        silence = max(now - row["seen_time"], timedelta())
        made.silence.FromTimedelta(silence)
        overdue = overdue or silence > bounds.silence
    made.alarming = overdue
    return made
