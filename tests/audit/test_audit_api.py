"""AuditService over the wire."""

import asyncio
import base64
import itertools
import json
import uuid
from collections.abc import Callable
from contextlib import suppress

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.audit import verifier
from services.audit.envelopes import LARGEST_PAYLOAD
from services.audit.verifier import extends, includes, leaf_hash
from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from tests.audit.events import Log, event, every, log_of
from tests.patience import eventually
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.event_pb2 import AuditEvent
from triptych.common.v1.role_pb2 import Role


async def test_an_event_is_in_the_log_as_its_receipt_says(log: Log) -> None:
    given = event(log.tenant_id, 1)
    (receipt,) = await log.send(given)
    entry = (await log.reader.GetEvent(pb.GetEventRequest(event_id=given.event_id))).entry
    assert entry.event == given
    assert (entry.seq, entry.leaf_hash, entry.log_id) == (receipt.seq, receipt.leaf_hash, log.tenant_id)
    assert leaf_hash(entry.body).hex() == entry.leaf_hash
    assert entry.prev_hash == "0" * 64
    assert not receipt.duplicate


async def test_entries_follow_one_another_without_gaps(log: Log) -> None:
    receipts = await log.grow(700)
    assert [receipt.seq for receipt in receipts] == list(range(700))
    listed = (await log.reader.ListEvents(pb.ListEventsRequest(page_size=200))).entries
    assert [entry.seq for entry in listed] == list(range(699, 499, -1))
    for newer, older in itertools.pairwise(listed):
        assert newer.prev_hash == older.leaf_hash
        assert older.record_time.ToNanoseconds() < newer.record_time.ToNanoseconds()


async def test_an_event_that_is_sent_again_gives_its_receipt_again(log: Log) -> None:
    receipts = await log.grow(3)
    again = await log.send(*log.events, event(log.tenant_id, 4))
    assert [(receipt.seq, receipt.leaf_hash) for receipt in again[:3]] == [
        (receipt.seq, receipt.leaf_hash) for receipt in receipts
    ]
    assert [receipt.duplicate for receipt in again] == [True, True, True, False]
    assert again[3].seq == 3


async def test_the_same_event_twice_in_one_call_is_one_entry(log: Log) -> None:
    given = event(log.tenant_id, 1)
    first, second = await log.send(given, given)
    assert (first.seq, first.duplicate) == (0, False)
    assert (second.seq, second.duplicate) == (0, True)


async def test_the_same_id_with_other_content_fails_the_call_and_leaves_evidence(log: Log) -> None:
    await log.grow(2)
    other = AuditEvent()
    other.CopyFrom(log.events[1])
    other.payload["name"] = "something else"
    for _ in range(2):
        with pytest.raises(faults.AlreadyExists) as caught:
            await log.send(event(log.tenant_id, 3), other)
        assert caught.value.reason == "EVENT_CONFLICT"
        assert caught.value.facts == {"event_id": other.event_id, "seq": "1"}
    entries = (await log.reader.ListEvents(pb.ListEventsRequest())).entries
    assert [entry.event.action for entry in entries] == ["audit.event.conflict", *["projects.project.create"] * 2]
    evidence = entries[0].event
    assert (evidence.source, evidence.source_seq, evidence.actor.id) == ("audit", 1, "projects")
    assert evidence.entity == f"event:{other.event_id}"
    assert "something else" in str(evidence.payload["attempt"])
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK


async def test_a_conflict_of_one_call_does_not_touch_the_calls_beside_it(log: Log) -> None:
    await log.grow(1)
    other = AuditEvent()
    other.CopyFrom(log.events[0])
    other.entity = "project:other"
    results = await asyncio.gather(
        log.send(event(log.tenant_id, 2)),
        log.send(other),
        log.send(event(log.tenant_id, 3)),
        return_exceptions=True,
    )
    assert isinstance(results[1], faults.AlreadyExists)
    assert not isinstance(results[0], BaseException)
    assert not isinstance(results[2], BaseException)
    assert {receipt.seq for receipt in [*results[0], *results[2]]} <= {1, 2, 3}


Change = Callable[[AuditEvent], None]
INVALID: dict[str, tuple[Change, str]] = {
    "a fraction": (lambda given: given.payload.update({"ratio": 0.5}), "payload.ratio: 0.5 is no integer"),
    "a number that others round": (lambda given: given.payload.update({"n": 2**53}), "within 2^53"),
    "a fraction in a list": (lambda given: given.payload.update({"a": [{"b": [1.25]}]}), "payload.a[0].b[0]"),
    "not a number": (lambda given: given.payload.update({"n": float("nan")}), "is no integer"),
    "infinity": (lambda given: given.payload.update({"n": float("inf")}), "is no integer"),
    "U+0000 in a value": (lambda given: given.payload.update({"n": "a\0b"}), "U+0000"),
    "U+0000 in a name": (lambda given: given.payload.update({"a\0b": 1}), "U+0000"),
    "U+0000 in the entity": (lambda given: setattr(given, "entity", "a\0b"), "entity: a string must not"),
    "too much": (lambda given: given.payload.update({"n": "x" * LARGEST_PAYLOAD}), "at most 32768"),
    "nanoseconds": (lambda given: setattr(given.occur_time, "nanos", 1), "finer than a microsecond"),
    "a source_seq that others round": (lambda given: setattr(given, "source_seq", 2**53), "source_seq"),
}


@pytest.mark.parametrize("name", INVALID)
async def test_what_has_no_canonical_form_refuses_the_whole_call(log: Log, name: str) -> None:
    change, problem = INVALID[name]
    good, bad = event(log.tenant_id, 1), event(log.tenant_id, 2)
    change(bad)
    with pytest.raises(faults.InvalidArgument) as caught:
        await log.send(good, bad)
    assert caught.value.reason == "EVENT_INVALID"
    assert caught.value.facts["event_id"] == bad.event_id
    assert problem in caught.value.facts["problem"]
    assert not (await log.reader.ListEvents(pb.ListEventsRequest())).entries


async def test_a_time_in_no_year_is_refused_at_the_edge(log: Log) -> None:
    bad = event(log.tenant_id, 1)
    bad.occur_time.seconds = 10**12
    with pytest.raises(faults.InvalidArgument, match="occur_time: must lie in the years 1 to 9999"):
        await log.send(bad)
    assert not (await log.reader.ListEvents(pb.ListEventsRequest())).entries


async def test_two_contents_under_one_id_in_a_call_are_refused(log: Log) -> None:
    given = event(log.tenant_id, 1)
    with pytest.raises(faults.InvalidArgument) as caught:
        await log.send(given, event(log.tenant_id, 2, event_id=given.event_id))
    assert caught.value.reason == "EVENT_INVALID"


async def test_a_service_reports_for_itself_only(log: Log) -> None:
    with pytest.raises(faults.PermissionDenied) as caught:
        await log.send(event(log.tenant_id, 1), event(log.tenant_id, 2, source="auth"))
    assert caught.value.reason == "SOURCE_FORGED"
    assert not (await log.reader.ListEvents(pb.ListEventsRequest())).entries


async def test_only_services_append_and_only_admins_read(log: Log) -> None:
    with pytest.raises(faults.PermissionDenied):
        await log.reader.AppendEvents(pb.AppendEventsRequest(events=[event(log.tenant_id, 1)]))
    user = log.person.colleague(Role.ROLE_USER).stub(AuditServiceStub)
    with pytest.raises(faults.PermissionDenied):
        await user.ListEvents(pb.ListEventsRequest())
    with pytest.raises(faults.Unauthenticated):
        await log.suite.anonymous(AuditServiceStub).ListEvents(pb.ListEventsRequest())


async def test_one_call_writes_to_the_logs_of_several_tenants(log: Log) -> None:
    others = [log.suite.person(Role.ROLE_ADMIN) for _ in range(20)]
    tenants = [log.tenant_id, *(other.tenant_id for other in others)] * 2
    receipts = await log.send(*(event(tenant_id, place // 21 + 1) for place, tenant_id in enumerate(tenants)))
    assert [receipt.log_id for receipt in receipts] == tenants
    assert [receipt.seq for receipt in receipts] == [0] * 21 + [1] * 21


async def test_what_has_no_tenant_goes_to_the_systems_log(log: Log) -> None:
    given = event("", 1)
    given.source_seq = 2**40 + uuid.uuid4().int % 2**40
    (receipt,) = await log.send(given)
    assert receipt.log_id == "system"
    system = log.suite.person(Role.ROLE_ADMIN, tenant_id=SYSTEM_TENANT).stub(AuditServiceStub)
    assert (await system.GetEvent(pb.GetEventRequest(event_id=given.event_id))).entry.event == given


async def test_another_tenants_event_looks_like_none(log: Log) -> None:
    await log.grow(1)
    stranger = log.suite.person(Role.ROLE_ADMIN).stub(AuditServiceStub)
    texts = []
    for event_id in (log.events[0].event_id, str(uuid.uuid4())):
        with pytest.raises(faults.NotFound) as caught:
            await stranger.GetEvent(pb.GetEventRequest(event_id=event_id))
        texts.append((caught.value.text, caught.value.reason))
        with pytest.raises(faults.NotFound):
            await stranger.GetInclusionProof(pb.GetInclusionProofRequest(event_id=event_id))
    assert texts == [("there is no such event in the log", "EVENT_NOT_FOUND")] * 2
    assert not (await stranger.ListEvents(pb.ListEventsRequest())).entries


async def test_pages_are_stable_while_the_log_grows(log: Log) -> None:
    await log.grow(25)
    seen: list[int] = []
    token = ""
    while True:
        page = await log.reader.ListEvents(pb.ListEventsRequest(page_size=10, page_token=token))
        seen += [entry.seq for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
        await log.grow(3)
    assert seen == list(range(24, -1, -1))


async def test_a_page_of_large_entries_is_shorter_and_loses_none(log: Log) -> None:
    await log.grow(60, payload={"text": "x" * 32_000})
    seen: list[int] = []
    token = ""
    while True:
        page = await log.reader.ListEvents(pb.ListEventsRequest(page_size=200, page_token=token))
        assert page.ByteSize() < 4 * 1024 * 1024
        seen += [entry.seq for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
    assert seen == list(range(59, -1, -1))
    await log.verify()  # signs
    assert verifier.verify((await log.export()).splitlines(keepends=True)).size == 60


async def test_each_filter_gives_what_it_names(log: Log) -> None:
    await log.send(
        event(log.tenant_id, 1),
        event(log.tenant_id, 2, action="projects.project.archive", entity="project:7"),
        event(log.tenant_id, 3, correlation_id="together"),
        event(log.tenant_id, 4, correlation_id="together", entity="project:7"),
    )
    entries = (await log.reader.ListEvents(pb.ListEventsRequest())).entries
    third: Timestamp = entries[1].record_time
    for request, expected in {
        "entity": (pb.ListEventsRequest(entity="project:7"), [3, 1]),
        "action": (pb.ListEventsRequest(action="projects.project.archive"), [1]),
        "actor": (pb.ListEventsRequest(actor_id="somebody"), [3, 2, 1, 0]),
        "nobody": (pb.ListEventsRequest(actor_id="nobody"), []),
        "correlation": (pb.ListEventsRequest(correlation_id="together"), [3, 2]),
        "both": (pb.ListEventsRequest(correlation_id="together", entity="project:7"), [3]),
        "from": (pb.ListEventsRequest(start_time=third), [3, 2]),
        "until": (pb.ListEventsRequest(end_time=third), [1, 0]),
        "period": (pb.ListEventsRequest(start_time=third, end_time=entries[0].record_time), [2]),
    }.values():
        assert [entry.seq for entry in (await log.reader.ListEvents(request)).entries] == expected


async def test_a_filter_with_an_impossible_time_is_refused(log: Log) -> None:
    with pytest.raises(faults.InvalidArgument):
        await log.reader.ListEvents(pb.ListEventsRequest(start_time=Timestamp(seconds=10**12)))


async def test_an_inclusion_proof_leads_to_the_signed_root(log: Log) -> None:
    await log.grow(600)
    await log.verify()  # signs
    for place in (0, 255, 256, 599):
        answer = await log.reader.GetInclusionProof(pb.GetInclusionProofRequest(event_id=log.events[place].event_id))
        assert answer.entry.seq == place
        assert includes(
            leaf=leaf_hash(answer.entry.body),
            index=place,
            size=answer.checkpoint.size,
            hashes=[bytes.fromhex(value) for value in answer.hashes],
            root=bytes.fromhex(answer.checkpoint.root_hash),
        )


async def test_a_log_without_entries_has_no_checkpoint_and_no_export(log: Log) -> None:
    for call in (
        log.reader.GetCheckpoint(pb.GetCheckpointRequest()),
        log.reader.GetCheckpoint(pb.GetCheckpointRequest(min_size=1)),
    ):
        with pytest.raises(faults.NotFound) as caught:
            await call
        assert caught.value.reason == "CHECKPOINT_NOT_FOUND"
    result = await log.verify()
    assert (result.verdict, result.total) == (pb.LOG_VERDICT_UNANCHORED, 0)


async def test_checkpoints_are_found_by_what_they_cover(log: Log) -> None:
    sizes = []
    for _ in range(3):
        await log.grow(5)
        sizes.append((await log.verify()).checkpoint.size)
    assert sizes == [5, 10, 15]
    newest = (await log.reader.GetCheckpoint(pb.GetCheckpointRequest())).checkpoint
    assert newest.size == 15
    covering = (await log.reader.GetCheckpoint(pb.GetCheckpointRequest(min_size=11))).checkpoint
    assert 11 <= covering.size <= 15
    origin, size, _, moment, end = newest.note.split("\n")
    assert (origin, size, end) == (f"triptych.local/{log.tenant_id}", "15", "")
    assert moment.endswith("Z")
    with pytest.raises(faults.NotFound):
        await log.reader.GetCheckpoint(pb.GetCheckpointRequest(min_size=16))


async def test_the_background_loop_signs_what_is_new(log: Log) -> None:
    await log.grow(4)

    async def signed() -> int:
        with suppress(faults.NotFound):
            return (await log.reader.GetCheckpoint(pb.GetCheckpointRequest(min_size=4))).checkpoint.size
        return 0

    assert await eventually(signed) == 4


async def test_a_whole_log_verifies_and_says_how_far_it_is(log: Log) -> None:
    await log.grow(4100)
    messages = await every(log.reader.VerifyLog(pb.VerifyLogRequest()))
    assert [message.verified for message in messages] == [2000, 4000, 4100, 4100]
    assert all(message.total == 4100 for message in messages)
    assert [message.verdict for message in messages[:-1]] == [pb.LOG_VERDICT_UNSPECIFIED] * 3
    assert messages[-1].verdict == pb.LOG_VERDICT_OK
    assert messages[-1].finding == ""
    assert messages[-1].checkpoint.size == 4100


async def test_a_log_that_grows_meanwhile_verifies(log: Log) -> None:
    await log.grow(300)

    async def grow() -> None:
        for _ in range(20):
            await log.grow(40)

    results, _ = await asyncio.gather(asyncio.gather(*(log.verify() for _ in range(5))), grow())
    assert {result.verdict for result in results} == {pb.LOG_VERDICT_OK}
    assert (await log.verify()).total == 1100


async def test_a_gap_in_a_sources_numbers_makes_the_log_incomplete(log: Log) -> None:
    await log.send(event(log.tenant_id, 1), event(log.tenant_id, 2), event(log.tenant_id, 4))
    result = await log.verify()
    assert result.verdict == pb.LOG_VERDICT_INCOMPLETE
    assert "its event 3 never arrived" in result.finding
    await log.send(event(log.tenant_id, 3))
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK


async def test_an_export_verifies_offline_under_a_pinned_key(log: Log) -> None:
    await log.grow(900)
    checkpoint = (await log.verify()).checkpoint
    data = await log.export()
    lines = data.splitlines(keepends=True)
    assert len(lines) == 902
    header, last = json.loads(lines[0]), json.loads(lines[-1])
    assert (header["log_id"], header["origin"]) == (log.tenant_id, "triptych.local")
    assert last["checkpoint"]["public_key"] == checkpoint.public_key
    anchors = verifier.read_anchors([checkpoint.public_key], [], [])
    assert verifier.verify(lines, anchors).verdict == "ok"
    assert verifier.verify(lines).verdict == "unanchored"


async def test_many_writers_at_once_make_one_chain(log: Log, suite: Suite) -> None:
    peers = [
        await suite.service(name, SYSTEM_TENANT) for name in ("projects", "production", "quarantine", "experiments")
    ]

    async def write(number: int) -> None:
        stub = peers[number].stub(AuditServiceStub)
        source = ("projects", "production", "quarantine", "experiments")[number]
        for begin in range(1, 101, 10):
            made = [event(log.tenant_id, begin + step, source=source) for step in range(10)]
            await stub.AppendEvents(pb.AppendEventsRequest(events=made))

    await asyncio.gather(*(write(number) for number in range(4)))
    result = await log.verify()
    assert (result.verdict, result.total) == (pb.LOG_VERDICT_OK, 400)


async def test_a_log_only_grew_between_any_two_sizes(log: Log) -> None:
    await log.grow(600)
    await log.verify()  # signs
    for old, size in ((1, 600), (255, 256), (256, 600), (300, 300), (17, 599), (599, 0)):
        answer = await log.reader.GetConsistencyProof(pb.GetConsistencyProofRequest(old_size=old, size=size))
        assert (answer.old_size, answer.size, answer.checkpoint.size) == (old, size or 600, 600)
        assert extends(
            old_size=old,
            old_root=bytes.fromhex(answer.old_root_hash),
            size=size or 600,
            root=bytes.fromhex(answer.root_hash),
            hashes=[bytes.fromhex(value) for value in answer.hashes],
        )
        if not size:
            assert answer.root_hash == answer.checkpoint.root_hash


async def test_there_is_no_proof_between_sizes_that_are_reversed_or_beyond_the_log(log: Log) -> None:
    with pytest.raises(faults.NotFound):
        await log.reader.GetConsistencyProof(pb.GetConsistencyProofRequest(old_size=1))
    await log.grow(9)
    await log.verify()
    for old, size in ((7, 6), (1, 10), (10, 0)):
        with pytest.raises(faults.InvalidArgument) as caught:
            await log.reader.GetConsistencyProof(pb.GetConsistencyProofRequest(old_size=old, size=size))
        assert caught.value.reason == "SIZES_INVALID"
        assert caught.value.facts["newest"] == "9"
    with pytest.raises(faults.InvalidArgument):
        await log.reader.GetConsistencyProof(pb.GetConsistencyProofRequest())


async def test_one_super_checkpoint_covers_all_logs_and_shows_each_tenant_its_own(log: Log) -> None:
    other = await log_of(log.suite, log.suite.person(Role.ROLE_ADMIN))
    for each, count in ((log, 5), (other, 8)):
        await each.grow(count)
        await each.verify()
    for each, count in ((log, 5), (other, 8)):
        answer = await each.reader.GetSuperCheckpoint(pb.GetSuperCheckpointRequest())
        head, checkpoint = answer.head, answer.checkpoint
        assert (head.log_id, head.size, checkpoint.log_id) == (each.tenant_id, count, "super")
        own = (await each.reader.GetCheckpoint(pb.GetCheckpointRequest(min_size=count))).checkpoint
        assert head.root_hash == own.root_hash
        assert includes(
            leaf=leaf_hash(head.statement),
            index=head.seq,
            size=checkpoint.size,
            hashes=[bytes.fromhex(value) for value in answer.hashes],
            root=bytes.fromhex(checkpoint.root_hash),
        )
        assert head.statement.startswith(f"triptych.local/{each.tenant_id}\n{count}\n")
        others = {log.tenant_id, other.tenant_id} - {each.tenant_id}
        assert not any(name in str(answer) for name in others)
        for cosignature in answer.cosignatures:
            assert verifier.Cosignature(
                cosignature.witness,
                cosignature.cosign_time.seconds,
                base64.b64decode(cosignature.signature),
                base64.b64decode(cosignature.public_key),
            ).holds(checkpoint.note)


async def test_a_log_that_is_not_listed_yet_has_no_super_checkpoint(log: Log) -> None:
    with pytest.raises(faults.NotFound) as caught:
        await log.reader.GetSuperCheckpoint(pb.GetSuperCheckpointRequest())
    assert caught.value.reason == "CHECKPOINT_NOT_FOUND"


async def test_nothing_is_reported_to_the_log_of_the_logs(log: Log) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await log.send(event("ffffffff-ffff-ffff-ffff-ffffffffffff", 1))
    assert caught.value.reason == "EVENT_INVALID"


async def test_a_repetition_among_new_events_costs_nobody_a_place(log: Log) -> None:
    await log.grow(3)
    results = await asyncio.gather(
        log.send(event(log.tenant_id, 4)), log.send(log.events[1]), log.send(event(log.tenant_id, 5))
    )
    assert results[1][0].duplicate
    assert sorted(receipt.seq for (receipt,) in results) == [1, 3, 4]
    assert (await log.verify()).total == 5
