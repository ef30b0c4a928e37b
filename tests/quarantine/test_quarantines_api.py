"""QuarantineService over the wire, with projects, experiments and audit beside it."""

import asyncio
import uuid
from datetime import timedelta

import pytest

from services.governance.quarantine import seals
from services.kit import faults
from services.kit.canonical import plain
from tests.quarantine.builders import (
    approve,
    ask,
    production,
    production_of,
    quarantine_request,
    record,
    seal,
    struct,
    supersede,
    version,
)
from tests.quarantine.database import APP, role
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1 import blacklist_service_pb2
from triptych.experiments.v1.blacklist_pb2 import BlacklistEntry, BlacklistReviewState
from triptych.experiments.v1.blacklist_service_pb2_grpc import BlacklistServiceStub
from triptych.projects.v1.version_pb2 import VersionTag
from triptych.quarantine.v1 import quarantine_service_pb2 as pb
from triptych.quarantine.v1.quarantine_pb2 import (
    Disposition,
    QuarantineReason,
    QuarantineRequest,
    QuarantineRequestState as State,
)
from triptych.quarantine.v1.quarantine_service_pb2_grpc import QuarantineServiceStub


@pytest.fixture
async def admin(suite: Suite) -> Person:
    await suite.start("projects", "experiments", "quarantine", "audit")
    return suite.person(Role.ROLE_ADMIN)


async def test_production_that_regressed_is_sealed_blocked_and_replaced(
    suite: Suite, admin: Person, other: Person
) -> None:
    good = await production(admin)
    bad = await supersede(suite, admin, good)
    asked = await ask(admin, bad.id)
    assert asked.state == State.QUARANTINE_REQUEST_STATE_PENDING
    assert (asked.configuration_hash, asked.project_id) == (bad.configuration_hash, bad.project_id)
    done = await approve(other, asked, etag=asked.etag)
    assert done.state == State.QUARANTINE_REQUEST_STATE_COMPLETED
    assert (done.requested_by, done.decided_by) == (admin.id, other.id)
    assert done.restored_version_id == good.id
    assert (await production_of(admin, bad.project_id)).id == good.id
    assert (await version(admin, bad.id)).tag == VersionTag.VERSION_TAG_V3
    entry = await _entry(admin, bad.configuration_hash)
    assert (entry.blocked, entry.quarantine_record_id, entry.quarantined_by) == (True, done.record_id, other.id)
    assert entry.review_state == BlacklistReviewState.BLACKLIST_REVIEW_STATE_PENDING
    assert await _get(admin, asked.id) == done


async def test_what_is_sealed_is_the_version_with_its_evidence(suite: Suite, admin: Person, other: Person) -> None:
    bad = await production(admin, temperature=0.25, name="the name is kept too")
    done = await approve(other, await ask(admin, bad.id, cool_down=timedelta(days=3)))
    sealed = await record(admin, done.record_id)
    assert (sealed.configuration, sealed.evidence) == (bad.configuration, done.evidence)
    assert (sealed.version_id, sealed.configuration_hash) == (bad.id, bad.configuration_hash)
    assert (sealed.quarantined_by, sealed.disposition) == (other.id, Disposition.DISPOSITION_QUARANTINED)
    assert sealed.quarantine_time == done.decide_time
    assert sealed.cool_down_end_time.ToDatetime() - sealed.quarantine_time.ToDatetime() == timedelta(days=3)
    assert not done.restored_version_id
    assert await _broken_seals(suite, admin) == []


async def test_a_security_failure_is_sealed_for_ever(admin: Person) -> None:
    bad = await production(admin)
    sealed = await seal(admin, bad.id, reason=QuarantineReason.QUARANTINE_REASON_SECURITY)
    assert sealed.permanent
    assert not sealed.HasField("cool_down_end_time")


async def test_a_reason_brings_its_cool_down(admin: Person) -> None:
    bad = await production(admin)
    request = quarantine_request(bad.id, reason=QuarantineReason.QUARANTINE_REASON_COST)
    request.ClearField("cool_down")
    asked = (await admin.stub(QuarantineServiceStub).RequestQuarantine(request)).request
    assert asked.cool_down.ToTimedelta() == timedelta(days=30)


async def test_who_asked_cannot_approve(admin: Person) -> None:
    asked = await ask(admin, (await production(admin)).id)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await approve(admin, asked)
    assert caught.value.reason == "SELF_APPROVAL"
    assert await _get(admin, asked.id) == asked


async def test_an_approval_of_what_changed_since_is_refused(admin: Person, other: Person) -> None:
    asked = await ask(admin, (await production(admin)).id)
    with pytest.raises(faults.Aborted) as caught:
        await approve(other, asked, etag='"7"')
    assert caught.value.reason == "ETAG_MISMATCH"


async def test_of_many_approvers_at_once_one_seals_one_record(suite: Suite, admin: Person) -> None:
    asked = await ask(admin, (await production(admin)).id)
    people = [admin.colleague(Role.ROLE_ADMIN) for _ in range(6)]
    answers = await asyncio.gather(*(approve(person, asked) for person in people), return_exceptions=True)
    assert sum(isinstance(answer, QuarantineRequest) for answer in answers) == 1
    refused = [answer for answer in answers if isinstance(answer, faults.Fault)]
    assert {fault.reason for fault in refused} == {"QUARANTINE_STATE_CONFLICT"}
    assert len((await _records(admin)).records) == 1
    assert await _broken_seals(suite, admin) == []


async def test_records_sealed_at_once_make_one_chain(suite: Suite, admin: Person, other: Person) -> None:
    bad = [await production(admin) for _ in range(8)]
    asked = [await ask(admin, item.id) for item in bad]
    done = await asyncio.gather(*(approve(other, item) for item in asked))
    async with role(suite, APP, admin.tenant_id) as connection:
        rows = await connection.fetch("SELECT * FROM quarantine_records ORDER BY position")
        heads = await connection.fetch("SELECT position, seal FROM chain_heads")
    assert [row["position"] for row in rows] == list(range(1, 9))
    assert [row["previous_seal"] for row in rows] == [seals.GENESIS, *(row["seal"] for row in rows[:-1])]
    assert [row["quarantine_time"] for row in rows] == sorted(row["quarantine_time"] for row in rows)
    assert [tuple(head) for head in heads] == [(8, rows[-1]["seal"])]
    assert {item.record_id for item in done} == {str(row["id"]) for row in rows}
    assert await _broken_seals(suite, admin) == []


async def test_one_configuration_approved_twice_at_once_is_sealed_once(
    suite: Suite, admin: Person, other: Person
) -> None:
    values = {"seed": str(uuid.uuid4())}
    first, second = await production(admin, **values), await production(admin, **values)
    assert first.configuration_hash == second.configuration_hash
    asked = [await ask(admin, first.id), await ask(admin, second.id)]
    answers = await asyncio.gather(*(approve(other, item) for item in asked), return_exceptions=True)
    done = [answer for answer in answers if isinstance(answer, QuarantineRequest)]
    assert len(done) == 1
    (refused,) = (answer for answer in answers if isinstance(answer, faults.Fault))
    assert (refused.reason, refused.facts) == ("QUARANTINE_SEALED", {"record_id": done[0].record_id})


async def test_a_sealed_configuration_is_not_sealed_again(suite: Suite, admin: Person) -> None:
    values = {"seed": str(uuid.uuid4())}
    first, second = await production(admin, **values), await production(admin, **values)
    sealed = await seal(admin, first.id)
    for item in (first, second):
        with pytest.raises(faults.AlreadyExists) as caught:
            await ask(admin, item.id)
        assert (caught.value.reason, caught.value.facts) == ("QUARANTINE_SEALED", {"record_id": sealed.id})


async def test_one_request_for_a_version_is_open_at_a_time(admin: Person, other: Person) -> None:
    bad = await production(admin)
    answers = await asyncio.gather(*(ask(admin, bad.id) for _ in range(6)), return_exceptions=True)
    (opened,) = (answer for answer in answers if isinstance(answer, QuarantineRequest))
    assert {answer.reason for answer in answers if isinstance(answer, faults.Fault)} == {"QUARANTINE_OPEN"}
    rejected = await _reject(other, opened.id)
    assert (rejected.state, rejected.decided_by) == (State.QUARANTINE_REQUEST_STATE_REJECTED, other.id)
    assert (await ask(admin, bad.id)).id != opened.id


async def test_a_decision_is_made_once(admin: Person, other: Person) -> None:
    asked = await ask(admin, (await production(admin)).id)
    await _reject(other, asked.id)
    for decide in (_reject(other, asked.id), approve(other, asked)):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await decide
        assert (caught.value.reason, caught.value.facts) == ("QUARANTINE_STATE_CONFLICT", {"state": "rejected"})


async def test_who_asked_may_take_it_back(admin: Person) -> None:
    asked = await ask(admin, (await production(admin)).id)
    assert (await _reject(admin, asked.id)).state == State.QUARANTINE_REQUEST_STATE_REJECTED


async def test_a_version_that_is_not_there_cannot_be_sealed(suite: Suite, admin: Person) -> None:
    foreign = await production(suite.person(Role.ROLE_ADMIN))
    for version_id in (str(uuid.uuid4()), foreign.id):
        with pytest.raises(faults.NotFound) as caught:
            await ask(admin, version_id)
        assert caught.value.reason == "VERSION_NOT_FOUND"


async def test_an_experiment_that_is_not_there_proves_nothing(admin: Person) -> None:
    bad = await production(admin)
    with pytest.raises(faults.NotFound) as caught:
        await ask(admin, bad.id, experiment_id=str(uuid.uuid4()))
    assert caught.value.reason == "EXPERIMENT_NOT_FOUND"


async def test_evidence_is_needed_and_limited(admin: Person) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await ask(admin, str(uuid.uuid4()), evidence=struct(metrics={}))
    assert caught.value.reason == "EVIDENCE_EMPTY"
    with pytest.raises(faults.InvalidArgument) as caught:
        await ask(admin, str(uuid.uuid4()), evidence=struct(log="x" * 300_000))
    assert list(caught.value.violations) == ["evidence"]


async def test_large_evidence_is_sealed_and_the_log_gets_its_digest(suite: Suite, admin: Person) -> None:
    bad = await production(admin)
    evidence = struct(log="x" * 200_000)
    sealed = await seal(admin, bad.id, evidence=evidence)
    assert plain(sealed.evidence) == plain(evidence)
    assert await _broken_seals(suite, admin) == []


async def test_the_same_request_id_acts_once(admin: Person, other: Person) -> None:
    bad = await production(admin)
    first = await ask(admin, bad.id, request_id=(request_id := str(uuid.uuid4())))
    assert await ask(admin, bad.id, request_id=request_id) == first
    done = await approve(other, first, request_id=(request_id := str(uuid.uuid4())))
    assert await approve(other, first, request_id=request_id) == done
    assert done.state == State.QUARANTINE_REQUEST_STATE_COMPLETED


async def test_another_tenants_things_look_like_none(suite: Suite, admin: Person) -> None:
    bad = await production(admin)
    sealed = await seal(admin, bad.id)
    asked = await ask(admin, (await production(admin)).id)
    stranger = suite.person(Role.ROLE_ADMIN)
    for attempt in (_get(stranger, asked.id), approve(stranger, asked), _reject(stranger, asked.id)):
        with pytest.raises(faults.NotFound) as caught:
            await attempt
        assert caught.value.reason == "QUARANTINE_REQUEST_NOT_FOUND"
    with pytest.raises(faults.NotFound) as caught:
        await record(stranger, sealed.id)
    assert caught.value.reason == "QUARANTINE_RECORD_NOT_FOUND"
    assert not (await _records(stranger)).records
    assert not (await _requests(stranger)).requests


async def test_lists_go_page_by_page_newest_first_and_by_project(admin: Person) -> None:
    bad = [await production(admin) for _ in range(3)]
    sealed = [await seal(admin, item.id) for item in bad]
    first = await _records(admin, page_size=2)
    second = await _records(admin, page_size=2, page_token=first.next_page_token)
    assert [item.id for item in [*first.records, *second.records]] == [item.id for item in reversed(sealed)]
    assert not second.next_page_token
    assert [item.id for item in (await _records(admin, project_id=bad[1].project_id)).records] == [sealed[1].id]
    requests = await _requests(admin, page_size=2)
    rest = await _requests(admin, page_size=2, page_token=requests.next_page_token)
    assert [item.version_id for item in [*requests.requests, *rest.requests]] == [item.id for item in reversed(bad)]
    only = await _requests(admin, project_id=bad[0].project_id)
    assert [item.version_id for item in only.requests] == [bad[0].id]


async def test_quarantine_is_for_admins(admin: Person) -> None:
    bad = await production(admin)
    asked = await ask(admin, bad.id)
    for lesser in (Role.ROLE_USER, Role.ROLE_VIEWER):
        person = admin.colleague(lesser)
        for attempt in (
            ask(person, bad.id),
            approve(person, asked),
            _reject(person, asked.id),
            _get(person, asked.id),
            _requests(person),
            record(person, str(uuid.uuid4())),
            _records(person),
        ):
            with pytest.raises(faults.PermissionDenied):
                await attempt


async def _get(person: Person, request_id: str) -> QuarantineRequest:
    request = pb.GetQuarantineRequestRequest(quarantine_request_id=request_id)
    return (await person.stub(QuarantineServiceStub).GetQuarantineRequest(request)).request


async def _reject(person: Person, request_id: str) -> QuarantineRequest:
    request = pb.RejectQuarantineRequest(quarantine_request_id=request_id, reason="a fluke of one hour")
    return (await person.stub(QuarantineServiceStub).RejectQuarantine(request)).request


async def _requests(person: Person, **fields: object) -> pb.ListQuarantineRequestsResponse:
    request = pb.ListQuarantineRequestsRequest(**fields)  # type: ignore[arg-type]
    return await person.stub(QuarantineServiceStub).ListQuarantineRequests(request)


async def _records(person: Person, **fields: object) -> pb.ListRecordsResponse:
    request = pb.ListRecordsRequest(**fields)  # type: ignore[arg-type]
    return await person.stub(QuarantineServiceStub).ListRecords(request)


async def _entry(person: Person, configuration_hash: str) -> BlacklistEntry:
    request = blacklist_service_pb2.GetBlacklistEntryRequest(configuration_hash=configuration_hash)
    return (await person.stub(BlacklistServiceStub).GetBlacklistEntry(request)).entry


async def _broken_seals(suite: Suite, person: Person) -> list[str]:
    """Recompute every seal of the tenant from what is stored; give the records whose seal is another."""
    async with role(suite, APP, person.tenant_id) as connection:
        rows = await connection.fetch("SELECT * FROM quarantine_records ORDER BY position")
    return [str(row["id"]) for row in rows if seals.of(dict(row), row["previous_seal"]) != row["seal"]]
