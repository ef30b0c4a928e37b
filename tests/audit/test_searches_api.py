"""Lists, search, timelines, counts and exports of choices over the wire."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.audit import searches, selections, sheets, verifier
from services.audit.verifier import Anchors, includes, leaf_hash
from services.kit import faults
from tests.audit.events import Log, event, every
from tests.patience import eventually
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.filter_pb2 import EventFilter
from triptych.common.v1.role_pb2 import Role

CSV = pb.EXPORT_FORMAT_CSV


async def found(log: Log, **fields: object) -> list[int]:
    """Give the places of the entries that a list finds, newest first."""
    request = pb.ListEventsRequest(**fields)  # type: ignore[arg-type]  # each test says which
    return [entry.seq for entry in (await log.reader.ListEvents(request)).entries]


async def exported(log: Log, **fields: object) -> bytes:
    """Give an export whole."""
    request = pb.ExportEventsRequest(**fields)  # type: ignore[arg-type]
    return b"".join([message.chunk for message in await every(log.reader.ExportEvents(request))])


@pytest.fixture
async def spoken(log: Log) -> Log:
    """Six events with something to find."""
    texts = [
        ("project:1", "projects.project.create", {"name": "Proyecto número uno", "tags": ["rojo", "azul"]}),
        ("project:1", "projects.project.archive", {"reason": "no longer needed"}),
        (
            "policy:7",
            "projects.policy.create",
            {"name": "never on Fridays", "deep": {"list": [{"note": "hidden gem"}]}},
        ),
        ("policy:7", "projects.policy.update", {"reason": "also never on Sundays"}),
        ("version:9", "projects.version.promote", {"reason": "needed now", "count": 4711}),
        ("project:2", "projects.project.create", {"name": "dos"}),
    ]
    await log.send(
        *(
            event(log.tenant_id, number, entity=entity, action=action, payload=payload)
            for number, (entity, action, payload) in enumerate(texts, 1)
        )
    )
    return log


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("número", [0]),
        ("PROYECTO", [0]),
        ("azul rojo", [0]),
        ("never", [3, 2]),
        ('"on fridays"', [2]),
        ('"fridays on"', []),
        ("never -sundays", [2]),
        ("azul or 4711", [4, 0]),
        ("gem", [2]),
        ("promote", [4]),
        ("policy", [3, 2]),
        ("projects.policy.update", [3]),
        ("project:2", [5]),
        ("reason needed", [4, 1]),
        ("nothing of this kind", []),
        ("'; DROP TABLE audit_log; --", []),
        ("& | ! <-> :* (", None),
        ("...", None),
    ],
)
async def test_words_find_entries(spoken: Log, text: str, expected: list[int] | None) -> None:
    if expected is None:
        with pytest.raises(faults.InvalidArgument) as caught:
            await found(spoken, text=text)
        assert caught.value.reason == "SEARCH_EMPTY"
    else:
        assert await found(spoken, text=text) == expected


async def test_words_and_filters_are_taken_together(spoken: Log) -> None:
    assert await found(spoken, text="never", action="projects.policy.update") == [3]
    assert await found(spoken, text="reason", action_prefix="projects.project.") == [1]
    assert await found(spoken, text="needed", entity="version:9") == [4]
    assert await found(spoken, text="never", source="projects", actor_id="somebody") == [3, 2]
    assert await found(spoken, text="never", source="auth") == []
    assert await found(spoken, text="never", correlation_id="request-3") == [2]
    assert await found(spoken, action_prefix="projects.p") == [5, 3, 2, 1, 0]
    assert await found(spoken, action_prefix="projects.policy.", source="projects") == [3, 2]
    assert await found(spoken, source="auth") == []
    entries = (await spoken.reader.ListEvents(pb.ListEventsRequest())).entries
    assert await found(spoken, text="needed", start_time=entries[3].record_time) == [4]
    assert await found(spoken, text="needed", end_time=entries[3].record_time) == [1]


async def test_what_was_found_can_be_proven(spoken: Log) -> None:
    await spoken.verify()
    (entry,) = (await spoken.reader.ListEvents(pb.ListEventsRequest(text="gem"))).entries
    proof = await spoken.reader.GetInclusionProof(pb.GetInclusionProofRequest(event_id=entry.event.event_id))
    assert (proof.entry.seq, proof.entry.leaf_hash, proof.archive) == (entry.seq, entry.leaf_hash, "")
    assert includes(
        leaf=leaf_hash(entry.body),
        index=entry.seq,
        size=proof.checkpoint.size,
        hashes=[bytes.fromhex(value) for value in proof.hashes],
        root=bytes.fromhex(proof.checkpoint.root_hash),
    )


async def test_other_tenants_find_nothing(spoken: Log) -> None:
    stranger = spoken.suite.person(Role.ROLE_ADMIN).stub(AuditServiceStub)
    for request in (
        pb.ListEventsRequest(text="never"),
        pb.ListEventsRequest(text=spoken.tenant_id),
        pb.ListEventsRequest(text=f"never or {spoken.tenant_id}"),
        pb.ListEventsRequest(action_prefix="projects."),
    ):
        assert not (await stranger.ListEvents(request)).entries
    assert not (await stranger.ListTimeline(pb.ListTimelineRequest(entity="policy:7"))).entries
    assert not (await stranger.GetStatistics(pb.GetStatisticsRequest())).statistics
    with pytest.raises(grpc.aio.AioRpcError, match="no checkpoint covers this"):
        await every(stranger.ExportEvents(pb.ExportEventsRequest(format=CSV)))
    user = spoken.person.colleague(Role.ROLE_USER).stub(AuditServiceStub)
    with pytest.raises(faults.PermissionDenied):
        await user.GetStatistics(pb.GetStatisticsRequest())


async def test_pages_of_a_search_are_stable_while_the_log_grows(log: Log) -> None:
    await log.grow(25, payload={"text": "needle"})
    seen: list[int] = []
    token = ""
    while True:
        page = await log.reader.ListEvents(pb.ListEventsRequest(text="needle", page_size=10, page_token=token))
        seen += [entry.seq for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
        await log.grow(3, payload={"text": "needle"})
    assert seen == list(range(24, -1, -1))


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "x" * 501},
        {"action_prefix": "x" * 121},
        {"source": "x" * 33},
        {"entity": "x" * 201},
        {"start_time": Timestamp(seconds=20), "end_time": Timestamp(seconds=20)},
        {"start_time": Timestamp(seconds=10**12)},
    ],
)
async def test_a_filter_that_cannot_be_is_refused(log: Log, fields: dict[str, object]) -> None:
    with pytest.raises(faults.InvalidArgument):
        await found(log, **fields)


async def test_a_search_for_hundreds_of_words_ends(spoken: Log) -> None:
    assert await found(spoken, text=" ".join(f"w{number}" for number in range(100))) == []
    assert await found(spoken, text=" or ".join(["never"] * 55)) == [3, 2]
    assert await found(spoken, text="-a " * 160) == [5, 4, 3, 2, 1, 0]


# Timelines.


async def test_a_timeline_is_in_the_order_in_which_things_happened(log: Log) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def at(number: int, minutes: int, entity: str = "project:1") -> object:
        made = event(log.tenant_id, number, entity=entity)
        made.occur_time.FromDatetime(noon + timedelta(minutes=minutes))
        return made

    await log.send(at(1, 30), at(2, 10), at(3, 20, "project:2"), at(4, 10), at(5, -(60 * 24 * 400)))  # type: ignore[arg-type]

    async def places(**fields: object) -> list[int]:
        request = pb.ListTimelineRequest(entity="project:1", **fields)  # type: ignore[arg-type]
        return [entry.seq for entry in (await log.reader.ListTimeline(request)).entries]

    def moment(minutes: int) -> Timestamp:
        made = Timestamp()
        made.FromDatetime(noon + timedelta(minutes=minutes))
        return made

    assert await places() == [4, 1, 3, 0]
    assert await places(start_time=moment(0)) == [1, 3, 0]
    assert await places(end_time=moment(30)) == [4, 1, 3]
    assert await places(start_time=moment(10), end_time=moment(11)) == [1, 3]
    assert await places(start_time=moment(60)) == []
    with pytest.raises(faults.InvalidArgument):
        await places(start_time=moment(10), end_time=moment(10))


async def test_a_late_report_does_not_shift_the_pages_of_a_timeline(log: Log) -> None:
    await log.grow(9, entity="project:1")
    seen: list[int] = []
    token = ""
    while True:
        request = pb.ListTimelineRequest(entity="project:1", page_size=4, page_token=token)
        page = await log.reader.ListTimeline(request)
        seen += [entry.seq for entry in page.entries]
        assert page.log_size == 9
        token = page.next_page_token
        if not token:
            break
        log.count += 1
        late = event(log.tenant_id, log.count, entity="project:1")
        late.occur_time.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
        await log.send(late)
    assert seen == list(range(9))
    (first, *_) = (await log.reader.ListTimeline(pb.ListTimelineRequest(entity="project:1"))).entries
    assert first.seq == 9


# Counts.


async def test_counts_are_kept_as_entries_come_in(spoken: Log) -> None:
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    request = pb.GetStatisticsRequest(group_by=[pb.STATISTIC_DIMENSION_ACTION])
    answer = await spoken.reader.GetStatistics(request)
    assert [(item.day, item.source, item.action, item.events) for item in answer.statistics] == [
        ("", "", "projects.policy.create", 1),
        ("", "", "projects.policy.update", 1),
        ("", "", "projects.project.archive", 1),
        ("", "", "projects.project.create", 2),
        ("", "", "projects.version.promote", 1),
    ]
    assert answer.events == 6
    whole = await spoken.reader.GetStatistics(pb.GetStatisticsRequest(action_prefix="projects.project."))
    assert [(item.source, item.action, item.events) for item in whole.statistics] == [
        ("projects", "projects.project.archive", 1),
        ("projects", "projects.project.create", 2),
    ]
    assert {item.day for item in whole.statistics} <= {day, f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"}
    await spoken.send(event(spoken.tenant_id, 7, action="projects.policy.update"))
    again = await spoken.reader.GetStatistics(request)
    assert again.statistics[1].events == 2
    assert (await spoken.reader.GetStatistics(pb.GetStatisticsRequest(source="auth"))).events == 0


async def test_a_repeated_event_is_counted_once(log: Log) -> None:
    await log.grow(5)
    await log.send(*log.events)
    assert (await log.reader.GetStatistics(pb.GetStatisticsRequest())).events == 5


async def test_counts_page_and_take_days(spoken: Log) -> None:
    seen: list[str] = []
    token = ""
    while True:
        request = pb.GetStatisticsRequest(page_size=2, page_token=token)
        page = await spoken.reader.GetStatistics(request)
        assert page.events == 6
        seen += [item.action for item in page.statistics]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(set(seen))
    assert len(seen) == 5
    far = pb.GetStatisticsRequest(start_day="2999-01-01")
    assert (await spoken.reader.GetStatistics(far)).events == 0
    assert (await spoken.reader.GetStatistics(pb.GetStatisticsRequest(end_day="2000-01-01"))).events == 0
    for bad in ("2026-02-30", "yesterday", "2026-1-1"):
        with pytest.raises(faults.InvalidArgument):
            await spoken.reader.GetStatistics(pb.GetStatisticsRequest(start_day=bad))


# Exports.


async def test_a_selection_proves_each_of_its_entries(spoken: Log) -> None:
    await spoken.grow(300, payload={"text": "filling"})
    key = (await spoken.verify()).checkpoint.public_key
    data = await exported(spoken, filter=EventFilter(text="never"))
    lines = data.splitlines(keepends=True)
    assert [json.loads(line)["seq"] for line in lines[1:-1]] == [2, 3]
    anchors = verifier.read_anchors([key], [], [])
    answer = verifier.verify(lines, anchors)
    assert (answer.verdict, answer.size) == ("ok", 2), answer.text
    assert verifier.verify(lines).verdict == "unanchored"
    header, first = json.loads(lines[0]), json.loads(lines[1])
    changes = [
        [lines[0], _line(first | {"body": first["body"].replace("Fridays", "Mondays")}), *lines[2:]],
        [lines[0], _line(first | {"seq": 3}), *lines[2:]],
        [lines[0], _line(first | {"hashes": first["hashes"][:-1]}), *lines[2:]],
        [lines[0], lines[2], lines[1], lines[3]],
        [_line(header | {"log_id": "system"}), *lines[1:]],
        [_line(header | {"checkpoint": {}}), *lines[1:]],
        [lines[0], b"{}\n", *lines[2:]],
    ]
    for changed in changes:
        assert verifier.verify(changed, anchors).verdict == "tampered"
    assert verifier.verify([lines[0], lines[2], lines[3]], anchors).verdict == "incomplete"
    assert verifier.verify(lines[:-1], anchors).verdict == "incomplete"
    empty = (await exported(spoken, filter=EventFilter(text="absent"))).splitlines(keepends=True)
    assert (verifier.verify(empty, anchors).verdict, len(empty)) == ("ok", 2)


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"


async def test_a_selection_of_many_pages_is_whole(log: Log) -> None:
    await log.grow(450)
    key = (await log.verify()).checkpoint.public_key
    lines = (await exported(log, filter=EventFilter(action_prefix="projects."))).splitlines(keepends=True)
    answer = verifier.verify(lines, verifier.read_anchors([key], [], []))
    assert (answer.verdict, answer.size) == ("ok", 450), answer.text


async def test_a_table_is_as_rfc_4180_has_it(spoken: Log) -> None:
    hard = {"text": 'a "quoted", line\r\nand another', "empty": ""}
    await spoken.send(event(spoken.tenant_id, 7, payload=hard, entity='project:",\n'))
    await spoken.verify()
    data = await exported(spoken, format=CSV)
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))
    assert [int(row["seq"]) for row in rows] == list(range(7))
    assert tuple(rows[0]) == sheets.COLUMNS
    assert json.loads(rows[6]["payload"]) == hard
    assert rows[6]["entity"] == 'project:",\n'
    assert data.count(b"\r\n") == 8  # the one within a payload is escaped there
    some = (await exported(spoken, format=CSV, filter=EventFilter(text="never"))).decode()
    assert [row["action"] for row in csv.DictReader(io.StringIO(some, newline=""))] == [
        "projects.policy.create",
        "projects.policy.update",
    ]


@pytest.mark.parametrize(
    "entity",
    ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "＠x"],  # noqa: RUF001
)
async def test_no_cell_of_a_table_is_a_formula(log: Log, entity: str) -> None:
    await log.send(event(log.tenant_id, 1, entity=entity, correlation_id="=1+1"))
    await log.verify()
    (row,) = csv.DictReader(io.StringIO((await exported(log, format=CSV)).decode(), newline=""))
    assert row["entity"] == f"'{entity}"
    assert row["correlation_id"] == "'=1+1"
    assert row["payload"].startswith("{")


async def test_a_table_of_thousands_of_rows_comes_in_pieces(log: Log) -> None:
    await log.grow(1500, payload={"text": "x" * 400})
    await log.verify()
    messages = await every(log.reader.ExportEvents(pb.ExportEventsRequest(format=CSV)))
    assert len(messages) > 2
    assert max(len(message.chunk) for message in messages) < 300 * 1024
    data = b"".join(message.chunk for message in messages)
    assert len(list(csv.reader(io.StringIO(data.decode(), newline="")))) == 1501


async def test_a_whole_export_is_as_it_was(spoken: Log) -> None:
    key = (await spoken.verify()).checkpoint.public_key
    lines = (await exported(spoken, format=pb.EXPORT_FORMAT_JSON_LINES)).splitlines(keepends=True)
    answer = verifier.verify(lines, Anchors(public_keys=verifier.read_anchors([key], [], []).public_keys))
    assert (answer.verdict, answer.size) == ("ok", 6)
    assert "resume" not in json.loads(lines[0])


# Dear reads.


async def test_an_export_by_words_finds_all_in_several_looks(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "PLACES", 7)
    monkeypatch.setattr(selections, "ROWS", 3)
    await log.grow(20, payload={"text": "needle"})
    await log.grow(5)
    await log.grow(11, payload={"text": "needle"})
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK
    lines = (await exported(log, filter=EventFilter(text="needle"))).splitlines(keepends=True)
    assert [json.loads(line)["seq"] for line in lines[1:-1]] == [*range(20), *range(25, 36)]
    assert verifier.verify(lines).verdict == "unanchored"
    everything = await exported(log, filter=EventFilter(text="needle", source="auth"))
    assert [json.loads(line) for line in everything.splitlines()[1:]] == [{"entries": 0}]


async def test_reads_that_hang_do_not_keep_events_out(log: Log) -> None:
    await log.grow(1)
    blocker = await log.suite.backends.postgres_server.connect(log.suite.database)
    hanging: list[asyncio.Task[object]] = []
    try:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE audits.openings IN ACCESS EXCLUSIVE MODE")  # which all lists read
            hanging += [asyncio.create_task(found(log)) for _ in range(20)]
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audits.openings'::regclass"
            await eventually(lambda: blocker.fetchval(waiting), lambda count: count >= 2)
            (receipt,) = await log.grow(1)
            assert receipt.seq == 1
    finally:
        await blocker.close()
        answers = await asyncio.gather(*hanging, return_exceptions=True)
    # Those beyond the connections for reads are refused after a second, or are early enough.
    assert all(isinstance(answer, (list, faults.ResourceExhausted)) for answer in answers), answers


async def test_no_statement_of_an_export_outlasts_its_bound(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.grow(1)
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK
    monkeypatch.setattr(searches, "_BOUND", "SET LOCAL statement_timeout = '100ms'")
    blocker = await log.suite.backends.postgres_server.connect(log.suite.database)
    try:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE audits.audit_log IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await exported(log, filter=EventFilter(text="project"))
    finally:
        await blocker.close()
    assert faults.from_error(caught.value, service="audit").reason == "DEADLINE_TOO_SHORT"
