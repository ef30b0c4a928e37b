"""ReevaluationService over the wire, as far as it needs no neighbour."""

import asyncio
import uuid
from datetime import timedelta

import pytest

from services.kit import faults
from tests.quarantine.builders import agree, ask_again, reevaluation_request, sealed_by_hand, struct
from tests.quarantine.database import APP, Hand, role
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.quarantine.v1 import quarantine_service_pb2, reevaluation_service_pb2 as pb
from triptych.quarantine.v1.quarantine_pb2 import Disposition
from triptych.quarantine.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from triptych.quarantine.v1.reevaluation_pb2 import Reevaluation, ReevaluationState
from triptych.quarantine.v1.reevaluation_service_pb2_grpc import ReevaluationServiceStub


@pytest.fixture
async def admin(suite: Suite) -> Person:
    await suite.start("quarantine")
    return suite.person(Role.ROLE_ADMIN)


async def test_a_re_evaluation_is_asked_for_and_approved_by_another_person(
    suite: Suite, admin: Person, other: Person
) -> None:
    record = await sealed_by_hand(suite, admin)
    asked = await ask_again(admin, record["id"])
    assert (asked.state, asked.attempt) == (ReevaluationState.REEVALUATION_STATE_PENDING, 1)
    assert (asked.requested_by, asked.configuration_hash) == (admin.id, record["configuration_hash"])
    agreed = await agree(other, asked, etag=asked.etag)
    assert (agreed.state, agreed.decided_by) == (ReevaluationState.REEVALUATION_STATE_APPROVED, other.id)
    assert agreed.etag != asked.etag
    assert await _get(admin, asked.id) == agreed
    found = await admin.stub(QuarantineServiceStub).GetRecord(
        quarantine_service_pb2.GetRecordRequest(record_id=str(record["id"]))
    )
    assert found.record.disposition == Disposition.DISPOSITION_UNDER_REVIEW


async def test_who_asked_cannot_approve(suite: Suite, admin: Person) -> None:
    asked = await ask_again(admin, (await sealed_by_hand(suite, admin))["id"])
    with pytest.raises(faults.FailedPrecondition) as caught:
        await agree(admin, asked)
    assert caught.value.reason == "SELF_APPROVAL"
    assert await _get(admin, asked.id) == asked


async def test_an_approval_of_what_changed_since_is_refused(suite: Suite, admin: Person, other: Person) -> None:
    asked = await ask_again(admin, (await sealed_by_hand(suite, admin))["id"])
    with pytest.raises(faults.Aborted) as caught:
        await agree(other, asked, etag='"7"')
    assert caught.value.reason == "ETAG_MISMATCH"


async def test_of_two_approvers_at_once_one_is_first(suite: Suite, admin: Person) -> None:
    asked = await ask_again(admin, (await sealed_by_hand(suite, admin))["id"])
    people = [admin.colleague(Role.ROLE_ADMIN) for _ in range(6)]
    answers = await asyncio.gather(*(agree(person, asked) for person in people), return_exceptions=True)
    assert sum(isinstance(answer, Reevaluation) for answer in answers) == 1
    refused = [answer for answer in answers if isinstance(answer, faults.Fault)]
    assert {fault.reason for fault in refused} == {"REEVALUATION_STATE_CONFLICT"}
    assert len(refused) == 5


async def test_a_rejected_re_evaluation_is_decided_and_does_not_count(
    suite: Suite, admin: Person, other: Person
) -> None:
    record = await sealed_by_hand(suite, admin)
    asked = await ask_again(admin, record["id"])
    rejected = await _reject(other, asked.id)
    assert (rejected.state, rejected.decided_by) == (ReevaluationState.REEVALUATION_STATE_REJECTED, other.id)
    for decide in (_reject(other, asked.id), agree(other, asked)):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await decide
        assert (caught.value.reason, caught.value.facts["state"]) == ("REEVALUATION_STATE_CONFLICT", "rejected")
    assert (await ask_again(admin, record["id"])).attempt == 1


async def test_who_asked_may_take_it_back(suite: Suite, admin: Person) -> None:
    asked = await ask_again(admin, (await sealed_by_hand(suite, admin))["id"])
    assert (await _reject(admin, asked.id)).state == ReevaluationState.REEVALUATION_STATE_REJECTED


async def test_one_re_evaluation_of_a_record_is_open_at_a_time(suite: Suite, admin: Person, other: Person) -> None:
    record = await sealed_by_hand(suite, admin)
    answers = await asyncio.gather(*(ask_again(admin, record["id"]) for _ in range(8)), return_exceptions=True)
    opened = [answer for answer in answers if isinstance(answer, Reevaluation)]
    assert len(opened) == 1
    assert {answer.reason for answer in answers if isinstance(answer, faults.Fault)} == {"REEVALUATION_OPEN"}
    await agree(other, opened[0])
    with pytest.raises(faults.AlreadyExists) as caught:
        await ask_again(admin, record["id"])
    assert caught.value.reason == "REEVALUATION_OPEN"


async def test_a_cool_down_says_until_when(suite: Suite, admin: Person) -> None:
    record = await sealed_by_hand(suite, admin, cool_down=timedelta(days=30))
    with pytest.raises(faults.FailedPrecondition) as caught:
        await ask_again(admin, record["id"])
    assert caught.value.reason == "COOL_DOWN_RUNNING"
    assert caught.value.facts["until"].startswith(f"{record['cool_down_end_time']:%Y-%m-%dT%H:%M}")
    assert caught.value.retry_after is not None
    assert timedelta(days=29) < caught.value.retry_after <= timedelta(days=30)


async def test_a_permanent_record_is_never_re_evaluated(suite: Suite, admin: Person) -> None:
    record = await sealed_by_hand(suite, admin, reason="security", permanent=True, cool_down=None)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await ask_again(admin, record["id"])
    assert caught.value.reason == "QUARANTINE_PERMANENT"


async def test_a_record_is_tried_five_times_at_most(suite: Suite, admin: Person, other: Person) -> None:
    record = await sealed_by_hand(suite, admin)
    for attempt in range(1, 6):
        asked = await ask_again(admin, record["id"])
        assert asked.attempt == attempt
        await _uphold(suite, other, await agree(other, asked))
    with pytest.raises(faults.FailedPrecondition) as caught:
        await ask_again(admin, record["id"])
    assert caught.value.reason == "ATTEMPTS_EXHAUSTED"


async def test_a_released_record_needs_no_re_evaluation(suite: Suite, admin: Person, other: Person) -> None:
    record = await sealed_by_hand(suite, admin)
    await _uphold(suite, other, await agree(other, await ask_again(admin, record["id"])), "approved_retry", "released")
    with pytest.raises(faults.FailedPrecondition) as caught:
        await ask_again(admin, record["id"])
    assert (caught.value.reason, caught.value.facts) == ("QUARANTINE_STATE_CONFLICT", {"state": "approved_retry"})


async def test_the_outcome_waits_for_the_blacklist_before_the_next_try(
    suite: Suite, admin: Person, other: Person
) -> None:
    record = await sealed_by_hand(suite, admin)
    agreed = await agree(other, await ask_again(admin, record["id"]))
    await _uphold(suite, other, agreed, pending=True)
    with pytest.raises(faults.AlreadyExists) as caught:
        await ask_again(admin, record["id"])
    assert caught.value.reason == "REEVALUATION_OPEN"
    async with role(suite, APP, admin.tenant_id) as connection:
        await connection.execute("UPDATE reevaluation_requests SET review_pending = false")


async def test_evidence_is_needed(suite: Suite, admin: Person) -> None:
    record = await sealed_by_hand(suite, admin)
    with pytest.raises(faults.InvalidArgument) as caught:
        await ask_again(admin, record["id"], evidence=struct(nothing=None))
    assert caught.value.reason == "EVIDENCE_EMPTY"


async def test_the_same_request_id_asks_once(suite: Suite, admin: Person) -> None:
    record = await sealed_by_hand(suite, admin)
    request_id = str(uuid.uuid4())
    first = await ask_again(admin, record["id"], request_id=request_id)
    assert await ask_again(admin, record["id"], request_id=request_id) == first


async def test_another_tenants_things_look_like_none(suite: Suite, admin: Person, other: Person) -> None:
    record = await sealed_by_hand(suite, admin)
    asked = await ask_again(admin, record["id"])
    stranger = suite.person(Role.ROLE_ADMIN)
    for attempt in (_get(stranger, asked.id), agree(stranger, asked), _reject(stranger, asked.id)):
        with pytest.raises(faults.NotFound) as caught:
            await attempt
        assert caught.value.reason == "REEVALUATION_NOT_FOUND"
    with pytest.raises(faults.NotFound) as caught:
        await ask_again(stranger, record["id"])
    assert caught.value.reason == "QUARANTINE_RECORD_NOT_FOUND"
    assert not (await _list(stranger)).reevaluations
    assert await _get(other, asked.id) == asked


async def test_lists_go_page_by_page_newest_first_and_by_record(suite: Suite, admin: Person) -> None:
    records = [await sealed_by_hand(suite, admin) for _ in range(3)]
    asked = [await ask_again(admin, record["id"]) for record in records]
    first = await _list(admin, page_size=2)
    assert [item.id for item in first.reevaluations] == [asked[2].id, asked[1].id]
    second = await _list(admin, page_size=2, page_token=first.next_page_token)
    assert [item.id for item in second.reevaluations] == [asked[0].id]
    assert not second.next_page_token
    only = await _list(admin, record_id=str(records[1]["id"]))
    assert [item.id for item in only.reevaluations] == [asked[1].id]


async def test_only_admins_and_the_experiments_service_look(suite: Suite, admin: Person) -> None:
    asked = await ask_again(admin, (await sealed_by_hand(suite, admin))["id"])
    for lesser in (Role.ROLE_USER, Role.ROLE_VIEWER):
        person = admin.colleague(lesser)
        for attempt in (_get(person, asked.id), agree(person, asked), _list(person), _reject(person, asked.id)):
            with pytest.raises(faults.PermissionDenied):
                await attempt
        with pytest.raises(faults.PermissionDenied):
            await person.stub(ReevaluationServiceStub).RequestReevaluation(reevaluation_request(uuid.uuid4()))
    service = (await suite.service("experiments", admin.tenant_id)).stub(ReevaluationServiceStub)
    found = await service.GetReevaluation(pb.GetReevaluationRequest(reevaluation_id=asked.id))
    assert found.reevaluation == asked


async def _get(person: Person, reevaluation_id: str) -> Reevaluation:
    request = pb.GetReevaluationRequest(reevaluation_id=reevaluation_id)
    return (await person.stub(ReevaluationServiceStub).GetReevaluation(request)).reevaluation


async def _reject(person: Person, reevaluation_id: str) -> Reevaluation:
    request = pb.RejectReevaluationRequest(reevaluation_id=reevaluation_id, reason="nothing is new")
    return (await person.stub(ReevaluationServiceStub).RejectReevaluation(request)).reevaluation


async def _list(person: Person, **fields: object) -> pb.ListReevaluationsResponse:
    request = pb.ListReevaluationsRequest(**fields)  # type: ignore[arg-type]
    return await person.stub(ReevaluationServiceStub).ListReevaluations(request)


async def _uphold(
    suite: Suite,
    person: Person,
    agreed: Reevaluation,
    disposition: str = "upheld",
    outcome: str = "upheld",
    *,
    pending: bool = False,
) -> None:
    """End a re-evaluation by hand, as an evaluation would."""
    async with role(suite, APP, person.tenant_id) as connection:
        hand = Hand(connection, person.tenant_id)
        await hand.end(agreed, disposition=disposition, outcome=outcome, pending=pending)
