"""Work that was interrupted: neighbours that are away, a process that dies, the way back from quarantine to its end."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from functools import partial

import pytest

from services.kit import faults
from tests.patience import eventually
from tests.quarantine.builders import (
    agree,
    approve,
    ask,
    ask_again,
    complete,
    evaluate,
    override,
    production,
    production_of,
    record,
    seal,
    supersede,
)
from tests.quarantine.database import APP, Hand, role
from tests.suite import Person, Suite
from triptych.audit.v1 import audit_service_pb2
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1 import blacklist_service_pb2
from triptych.experiments.v1.blacklist_pb2 import BlacklistEntry
from triptych.experiments.v1.blacklist_service_pb2_grpc import BlacklistServiceStub
from triptych.experiments.v1.evaluation_pb2 import Verdict
from triptych.quarantine.v1 import quarantine_service_pb2 as pb
from triptych.quarantine.v1.quarantine_pb2 import Disposition, QuarantineRequest, QuarantineRequestState as State
from triptych.quarantine.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from triptych.quarantine.v1.reevaluation_pb2 import Reevaluation, ReevaluationOutcome, ReevaluationState

ALL = ("projects", "experiments", "quarantine", "audit")


@pytest.fixture
async def admin(suite: Suite) -> AsyncIterator[Person]:
    await suite.start(*ALL)
    yield suite.person(Role.ROLE_ADMIN)
    await suite.start(*ALL)


async def test_an_approval_without_neighbours_is_kept_and_completed_later(
    suite: Suite, admin: Person, other: Person
) -> None:
    good = await production(admin)
    bad = await supersede(suite, admin, good)
    asked = await ask(admin, bad.id)
    await suite.stop()
    await suite.start("quarantine")
    stored = await approve(other, asked)
    assert stored.state == State.QUARANTINE_REQUEST_STATE_APPROVED
    assert (await record(admin, stored.record_id)).disposition == Disposition.DISPOSITION_QUARANTINED
    assert (await _get(admin, asked.id)) == stored
    with pytest.raises(faults.FailedPrecondition) as caught:  # a release must not overtake the block
        await ask_again(admin, stored.record_id)
    assert (caught.value.reason, caught.value.facts) == ("QUARANTINE_STATE_CONFLICT", {"state": "approved"})
    await suite.start(*ALL)
    done = await eventually(lambda: _completed(admin, asked.id))
    assert done.restored_version_id == good.id
    assert (await production_of(admin, bad.project_id)).id == good.id
    assert (await _entry(admin, bad.configuration_hash)).blocked


async def test_what_one_process_left_another_one_completes(suite: Suite, admin: Person, other: Person) -> None:
    asked = [await ask(admin, (await production(admin)).id) for _ in range(3)]
    await suite.stop()
    await suite.start("quarantine")
    stored = await asyncio.gather(*(approve(other, item) for item in asked))
    assert {item.state for item in stored} == {State.QUARANTINE_REQUEST_STATE_APPROVED}
    await suite.stop()
    await suite.start(*ALL)
    rival = await suite.launch("quarantine")
    rival.neighbours.targets.update(suite.runtimes["quarantine"].neighbours.targets)
    for item in asked:
        await eventually(partial(_completed, admin, item.id))


async def test_a_replayed_approval_answers_with_what_is_true_now(suite: Suite, admin: Person, other: Person) -> None:
    asked = await ask(admin, (await production(admin)).id)
    request_id = str(uuid.uuid4())
    await suite.stop()
    await suite.start("quarantine")
    stored = await approve(other, asked, request_id=request_id)
    assert stored.state == State.QUARANTINE_REQUEST_STATE_APPROVED
    await suite.start(*ALL)
    again = await approve(other, asked, request_id=request_id)
    assert again.record_id == stored.record_id
    done = await eventually(lambda: _completed(admin, asked.id))
    assert await approve(other, asked, request_id=request_id) == done


async def test_an_outcome_that_the_blacklist_was_not_told_of_is_told_later(
    suite: Suite, admin: Person, other: Person
) -> None:
    sealed = await seal(admin, (await production(admin)).id)
    agreed = await agree(other, await ask_again(admin, sealed.id))
    async with role(suite, APP, admin.tenant_id) as connection:
        await Hand(connection, admin.tenant_id).end(
            agreed, disposition="approved_retry", outcome="released", pending=True
        )
        entry = await eventually(partial(_reviewed, admin, sealed.configuration_hash))
        assert (entry.blocked, entry.reviewed_by) == (False, other.id)
        await eventually(partial(connection.fetchval, "SELECT NOT review_pending FROM reevaluation_requests"))


async def test_a_new_evaluation_that_passes_releases(admin: Person, other: Person) -> None:
    sealed = await seal(admin, (await production(admin)).id)
    agreed = await agree(other, await ask_again(admin, sealed.id))
    evaluation = await evaluate(admin, agreed, sealed)
    await override(other, evaluation, Verdict.VERDICT_PASS)
    ended = await complete(admin, agreed, evaluation.id)
    assert (ended.state, ended.outcome) == (
        ReevaluationState.REEVALUATION_STATE_COMPLETED,
        ReevaluationOutcome.REEVALUATION_OUTCOME_RELEASED,
    )
    assert ended.evaluation_id == evaluation.id
    entry = await eventually(lambda: _reviewed(admin, sealed.configuration_hash))
    assert (entry.blocked, entry.reviewed_by) == (False, other.id)
    assert (await record(admin, sealed.id)).disposition == Disposition.DISPOSITION_APPROVED_RETRY


async def test_whatever_is_no_pass_upholds(admin: Person, other: Person) -> None:
    sealed = await seal(admin, (await production(admin)).id)
    agreed = await agree(other, await ask_again(admin, sealed.id))
    evaluation = await evaluate(admin, agreed, sealed)
    await override(other, evaluation, Verdict.VERDICT_FAIL)
    ended = await complete(admin, agreed, evaluation.id)
    assert ended.outcome == ReevaluationOutcome.REEVALUATION_OUTCOME_UPHELD
    assert (await eventually(lambda: _reviewed(admin, sealed.configuration_hash))).blocked
    assert (await record(admin, sealed.id)).disposition == Disposition.DISPOSITION_UPHELD
    # An old evaluation does not end the next try.
    again = await eventually(lambda: _asked_again(admin, sealed.id))
    assert again.attempt == 2
    await agree(other, again)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await complete(admin, again, evaluation.id)
    assert caught.value.reason == "EVALUATION_NOT_NEW"


async def test_an_evaluation_of_another_configuration_ends_nothing(admin: Person, other: Person) -> None:
    first, second = await seal(admin, (await production(admin)).id), await seal(admin, (await production(admin)).id)
    agreed, another = await agree(other, await ask_again(admin, first.id)), await ask_again(admin, second.id)
    evaluation = await evaluate(admin, agreed, first)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await complete(admin, another, evaluation.id)
    assert caught.value.reason == "REEVALUATION_STATE_CONFLICT"
    await agree(other, another)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await complete(admin, another, evaluation.id)
    assert caught.value.reason == "EVALUATION_OF_ANOTHER"


async def test_an_evaluation_that_is_not_there_ends_nothing(admin: Person, other: Person) -> None:
    sealed = await seal(admin, (await production(admin)).id)
    agreed = await agree(other, await ask_again(admin, sealed.id))
    with pytest.raises(faults.NotFound) as caught:
        await complete(admin, agreed, str(uuid.uuid4()))
    assert caught.value.reason == "EVALUATION_NOT_FOUND"


async def test_a_released_configuration_that_fails_again_is_sealed_again(admin: Person, other: Person) -> None:
    values = {"seed": str(uuid.uuid4())}
    sealed = await seal(admin, (await production(admin, **values)).id)
    again = await production(admin, **values)
    agreed = await agree(other, await ask_again(admin, sealed.id))
    evaluation = await evaluate(admin, agreed, sealed)
    await override(other, evaluation, Verdict.VERDICT_PASS)
    await complete(admin, agreed, evaluation.id)
    second = await seal(admin, again.id)
    assert second.id != sealed.id
    entry = await _entry(admin, sealed.configuration_hash)
    assert (entry.blocked, entry.quarantine_record_id) == (True, second.id)
    with pytest.raises(faults.AlreadyExists) as caught:
        await ask(admin, sealed.version_id)
    assert (caught.value.reason, caught.value.facts["record_id"]) == ("QUARANTINE_SEALED", second.id)


async def test_everything_that_happened_is_in_the_audit_log(admin: Person, other: Person) -> None:
    asked = await ask(admin, (await production(admin)).id)
    done = await approve(other, asked)
    expected = {
        "quarantine.request.create",
        "quarantine.request.approve",
        "quarantine.record.seal",
        "quarantine.request.complete",
        "experiments.blacklist.block",
        "projects.version.demote",
    }
    auditor = admin.stub(AuditServiceStub)

    async def complete_log() -> bool:
        answer = await auditor.ListEvents(audit_service_pb2.ListEventsRequest(page_size=200))
        return expected <= {event.event.action for event in answer.entries}

    assert done.state == State.QUARANTINE_REQUEST_STATE_COMPLETED
    assert await eventually(complete_log)


async def _get(person: Person, request_id: str) -> QuarantineRequest:
    request = pb.GetQuarantineRequestRequest(quarantine_request_id=request_id)
    return (await person.stub(QuarantineServiceStub).GetQuarantineRequest(request)).request


async def _completed(person: Person, request_id: str) -> QuarantineRequest | None:
    found = await _get(person, request_id)
    return found if found.state == State.QUARANTINE_REQUEST_STATE_COMPLETED else None


async def _asked_again(person: Person, record_id: str) -> Reevaluation | None:
    """Ask again as soon as the blacklist knows how the last try ended."""
    try:
        return await ask_again(person, record_id)
    except faults.AlreadyExists:
        return None


async def _entry(person: Person, configuration_hash: str) -> BlacklistEntry:
    request = blacklist_service_pb2.GetBlacklistEntryRequest(configuration_hash=configuration_hash)
    return (await person.stub(BlacklistServiceStub).GetBlacklistEntry(request)).entry


async def _reviewed(person: Person, configuration_hash: str) -> BlacklistEntry | None:
    entry = await _entry(person, configuration_hash)
    return entry if entry.reviewed_by else None
