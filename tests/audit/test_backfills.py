"""What the migrations since the second version make of the entries that are there: counts, words, timelines.

Some thousand entries of several tenants and months are written as that version did; then all that is kept beside them
has to say the same as they do, and they verify.
"""

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.cli.stack.backends import Backends
from tests.audit.events import Log, event, log_of, processes
from tests.audit.months import months_before, open_month
from tests.audit.test_migrations import migrate, write
from tests.suite import Suite, superuser_of
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.event_pb2 import AuditEvent, LogEntry
from triptych.common.v1.role_pb2 import Role

SIZES = (1700, 1100, 700)
ACTIONS = ("projects.project.create", "projects.policy.update", "projects.version.promote", "auth.session.create")
WORDS = ("granite", "basalt", "obsidian", "marble", "slate")
ENTITIES = 40


@dataclass
class Filled:
    """A tenant's log, what was written into it, and when."""

    log: Log
    events: Sequence[AuditEvent]
    moments: Sequence[datetime]


def events_of(tenant_id: str, moments: Sequence[datetime]) -> list[AuditEvent]:
    """Make events; every third is reported a few days late."""
    made = []
    for seq, moment in enumerate(moments):
        payload = {"stone": WORDS[seq % len(WORDS)], "number": seq}
        changes: dict[str, Any] = {
            "action": ACTIONS[seq % len(ACTIONS)], "entity": f"project:{seq % ENTITIES}", "payload": payload,
        }  # fmt: skip
        made.append(event(tenant_id, seq + 1, **changes))
        made[-1].occur_time.FromDatetime(moment - timedelta(days=seq % 3, milliseconds=seq))
    return made


def moments_of(months: Sequence[date], count: int) -> list[datetime]:
    """Give moments over whole months, the last of them the present one, never backwards."""
    now = datetime.now(UTC) - timedelta(minutes=1)
    begin = datetime(months[0].year, months[0].month, 1, tzinfo=UTC)
    step = (now - begin) / count
    return [begin + step * seq for seq in range(count)]


@pytest.fixture
async def filled(suite: Suite, backends: Backends, tmp_path: Path) -> AsyncIterator[list[Filled]]:
    """Three logs over three months, written in the second version, in the present one."""
    database = f"{suite.database}_filled"
    backends.create_database(database)
    await migrate(backends, database, "0002")
    given = []
    async with superuser_of(backends, database) as superuser:
        await superuser.execute("SET event_triggers = off")
        months = months_before(datetime.now(UTC).date(), 2)
        await superuser.execute("SELECT audits.create_partitions(3)")
        for month in months:
            await open_month(superuser, month)
        for size in SIZES:
            tenant_id, moments = str(uuid.uuid4()), moments_of(months, size)
            events = events_of(tenant_id, moments)
            await write(superuser, tenant_id, events, moments)
            given.append((tenant_id, events, moments))
    await migrate(backends, database, "head")
    async with processes(suite, tmp_path, "audit", database=database) as other:
        yield [
            Filled(await log_of(other, other.person(Role.ROLE_ADMIN, tenant_id=tenant_id)), events, moments)
            for tenant_id, events, moments in given
        ]
    async with superuser_of(backends) as server:
        await server.execute(f"DROP DATABASE {database} WITH (FORCE)")


async def counted(filled: Filled) -> Counter[tuple[str, str, str]]:
    """Give the counts that the service gives, by day, source and action."""
    found: Counter[tuple[str, str, str]] = Counter()
    request = pb.GetStatisticsRequest(page_size=200)
    while True:
        answer = await filled.log.reader.GetStatistics(request)
        found.update({(each.day, each.source, each.action): each.events for each in answer.statistics})
        if not answer.next_page_token:
            assert answer.events == found.total()
            return found
        request.page_token = answer.next_page_token


async def listed(filled: Filled, method: str, request: Any) -> list[LogEntry]:
    """Give all pages of a list or a timeline."""
    found: list[LogEntry] = []
    request.page_size = 200
    while True:
        answer = await getattr(filled.log.reader, method)(request)
        found += answer.entries
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


async def test_what_is_kept_beside_the_entries_says_the_same_as_they_do(filled: list[Filled]) -> None:
    for each in filled:
        await _verifies(each)
        await _counts(each)
        await _finds_words(each)
        await _tells_timelines(each)
    for each in filled:  # and it goes on
        each.log.count = len(each.events)
        await each.log.grow(2, entity="project:0", payload={"stone": "granite"})
        assert (await counted(each)).total() == len(each.events) + 2
        assert len(await listed(each, "ListEvents", pb.ListEventsRequest(text="granite"))) == (
            len(each.events[:: len(WORDS)]) + 2
        )
        assert (await each.log.verify()).verdict == pb.LOG_VERDICT_OK


async def _verifies(each: Filled) -> None:
    result = await each.log.verify()
    assert (result.verdict, result.total) == (pb.LOG_VERDICT_OK, len(each.events)), result.finding
    assert not result.guard_findings, result.guard_findings


async def _counts(each: Filled) -> None:
    expected = Counter(
        (f"{moment:%Y-%m-%d}", event.source, event.action)
        for event, moment in zip(each.events, each.moments, strict=True)
    )
    assert await counted(each) == expected


async def _finds_words(each: Filled) -> None:
    for place, word in enumerate(WORDS):
        found = await listed(each, "ListEvents", pb.ListEventsRequest(text=word))
        assert [entry.seq for entry in found] == list(range(len(each.events)))[place :: len(WORDS)][::-1]
    found = await listed(each, "ListEvents", pb.ListEventsRequest(text="policy -basalt"))
    assert {entry.seq for entry in found} == {
        seq for seq in range(len(each.events)) if seq % len(ACTIONS) == 1 and seq % len(WORDS) != 1
    }


async def _tells_timelines(each: Filled) -> None:
    for number in (0, 7):
        mine = range(number, len(each.events), ENTITIES)
        expected = sorted(mine, key=lambda seq: (each.events[seq].occur_time.ToNanoseconds(), seq))
        request = pb.ListTimelineRequest(entity=f"project:{number}")
        assert [entry.seq for entry in await listed(each, "ListTimeline", request)] == expected
        # A period of which some was recorded only later: what the counts know of that decides what is read.
        since = each.moments[len(each.moments) // 2].replace(hour=0, minute=0, second=0, microsecond=0)
        request = pb.ListTimelineRequest(entity=f"project:{number}")
        request.start_time.FromDatetime(since)
        request.end_time.FromDatetime(since + timedelta(days=4))
        shown = [
            seq for seq in expected
            if since <= each.events[seq].occur_time.ToDatetime(tzinfo=UTC) < since + timedelta(days=4)
        ]  # fmt: skip
        assert [entry.seq for entry in await listed(each, "ListTimeline", request)] == shown
