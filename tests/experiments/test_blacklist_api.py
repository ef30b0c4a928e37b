"""BlacklistService over the wire, with the real projects service: what failed does not come back by accident."""

import asyncio
import uuid

import pytest
from google.protobuf.struct_pb2 import Struct

from services.kit import faults
from tests.experiments.stages import Stages, configuration
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1 import (
    blacklist_pb2,
    blacklist_service_pb2 as pb,
    experiment_pb2,
    experiment_service_pb2,
    promotion_pb2,
    promotion_service_pb2,
)
from triptych.experiments.v1.blacklist_service_pb2_grpc import BlacklistServiceStub
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.experiments.v1.promotion_service_pb2_grpc import PromotionServiceStub
from triptych.projects.v1 import version_service_pb2
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub


@pytest.fixture
async def stages(suite: Suite) -> Stages:
    return await Stages.open(suite)


async def state_of(stages: Stages, experiment_id: str) -> str:
    request = experiment_service_pb2.GetExperimentRequest(experiment_id=experiment_id)
    found = (await stages.author.stub(ExperimentServiceStub).GetExperiment(request)).experiment
    return experiment_pb2.ExperimentState.Name(found.state).removeprefix("EXPERIMENT_STATE_").lower()


async def review(stages: Stages, configuration_hash: str, *, release: bool, state: int) -> blacklist_pb2.BlacklistEntry:
    quarantine = await stages.suite.service("quarantine", stages.author.tenant_id)
    request = pb.ReviewConfigurationRequest(
        configuration_hash=configuration_hash,
        review_state=state,  # type: ignore[arg-type]
        release=release,
        reviewed_by=stages.reviewer.id,
    )
    return (await quarantine.stub(BlacklistServiceStub).ReviewConfiguration(request)).entry


async def test_a_block_quarantines_experiments_and_rejects_the_open_promotion(stages: Stages) -> None:
    given = configuration()
    created, running = await stages.create(given), await stages.start(given)
    promotion = await stages.ask(await stages.write_evaluation(given))
    other = await stages.create()
    record_id = str(uuid.uuid4())
    entry = await stages.block(created.configuration_hash, record_id)
    assert entry.blocked
    assert (entry.quarantine_record_id, entry.quarantined_by) == (record_id, stages.reviewer.id)
    assert entry.evidence["item"] == "p001"
    for experiment_id in (created.id, running.id, promotion.experiment_id):
        assert await state_of(stages, experiment_id) == "quarantined"
    assert await state_of(stages, other.id) == "created"
    stub = stages.author.stub(PromotionServiceStub)
    request = promotion_service_pb2.GetPromotionRequest(promotion_id=promotion.id)
    rejected = (await stub.GetPromotion(request)).promotion
    assert rejected.state == promotion_pb2.PROMOTION_STATE_REJECTED
    assert "it missed a weakness" in rejected.reject_reason
    blacklist = stages.author.stub(BlacklistServiceStub)
    get = pb.GetBlacklistEntryRequest(configuration_hash=created.configuration_hash)
    assert (await blacklist.GetBlacklistEntry(get)).entry == entry
    assert list((await blacklist.ListBlacklistEntries(pb.ListBlacklistEntriesRequest())).entries) == [entry]


def variants() -> list[Struct]:
    """The same behaviour, written in other ways."""
    spelled = configuration(model="caf\u00e9", depth=1.0, flags={"a": True, "b": [1, 2]})
    reordered = Struct()
    reordered.update({"flags": {"b": [1, 2.0], "a": True}, "depth": 1, "model": "cafe\u0301"})
    renamed = Struct()
    renamed.CopyFrom(spelled)
    renamed.update({"name": "another", "description": "quite different"})
    absent = Struct()
    absent.CopyFrom(spelled)
    absent.update({"nothing": None})
    return [spelled, reordered, renamed, absent]


async def test_no_spelling_of_a_blocked_configuration_comes_back_and_none_leaves_a_version(stages: Stages) -> None:
    spellings = variants()
    experiment = await stages.create(spellings[0])
    entry = await stages.block(experiment.configuration_hash)
    for given in spellings:
        with pytest.raises(faults.FailedPrecondition) as caught:
            await stages.create(given)
        assert caught.value.reason == "CONFIGURATION_BLACKLISTED"
        assert caught.value.facts == {
            "configuration_hash": experiment.configuration_hash,
            "quarantine_record_id": entry.quarantine_record_id,
        }
    listed = version_service_pb2.ListVersionsRequest(project_id=stages.project_id)
    assert len((await stages.author.stub(VersionServiceStub).ListVersions(listed)).versions) == 1


async def test_a_blocked_experiment_neither_starts_nor_is_promoted(stages: Stages) -> None:
    given = configuration()
    evaluation = await stages.write_evaluation(given)
    created = await stages.create(given)
    await stages.block(created.configuration_hash)
    start = experiment_service_pb2.StartExperimentRequest(experiment_id=created.id)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.author.stub(ExperimentServiceStub).StartExperiment(start)
    assert caught.value.reason == "CONFIGURATION_BLACKLISTED"
    with pytest.raises(faults.FailedPrecondition) as asked:
        await stages.ask(evaluation)
    assert asked.value.reason == "CONFIGURATION_BLACKLISTED"


async def test_what_is_in_production_is_quarantined_too_and_its_promotion_stays_completed(stages: Stages) -> None:
    promotion = await stages.approve(await stages.ask())
    await stages.block(promotion.configuration_hash)
    assert await state_of(stages, promotion.experiment_id) == "quarantined"
    request = promotion_service_pb2.GetPromotionRequest(promotion_id=promotion.id)
    found = (await stages.author.stub(PromotionServiceStub).GetPromotion(request)).promotion
    assert found.state == promotion_pb2.PROMOTION_STATE_COMPLETED


async def test_blocking_the_same_record_again_changes_nothing_even_after_its_release(stages: Stages) -> None:
    experiment, record_id = await stages.create(), str(uuid.uuid4())
    first = await stages.block(experiment.configuration_hash, record_id)
    assert await stages.block(experiment.configuration_hash, record_id) == first
    reviewed = blacklist_pb2.BLACKLIST_REVIEW_STATE_REVIEWED
    released = await review(stages, experiment.configuration_hash, release=True, state=reviewed)
    assert not released.blocked
    assert not (await stages.block(experiment.configuration_hash, record_id)).blocked
    again = await stages.block(experiment.configuration_hash)
    assert again.blocked
    assert again.review_state == blacklist_pb2.BLACKLIST_REVIEW_STATE_PENDING


async def test_a_review_that_releases_lets_the_configuration_be_tried_again(stages: Stages) -> None:
    given = configuration()
    experiment = await stages.create(given)
    await stages.block(experiment.configuration_hash)
    appealed = await review(
        stages, experiment.configuration_hash, release=False, state=blacklist_pb2.BLACKLIST_REVIEW_STATE_APPEALED
    )
    assert appealed.blocked
    with pytest.raises(faults.InvalidArgument):
        await review(
            stages, experiment.configuration_hash, release=True, state=blacklist_pb2.BLACKLIST_REVIEW_STATE_APPEALED
        )
    entry = await review(
        stages, experiment.configuration_hash, release=True, state=blacklist_pb2.BLACKLIST_REVIEW_STATE_REVIEWED
    )
    assert (entry.blocked, entry.reviewed_by) == (False, stages.reviewer.id)
    assert (await stages.create(given)).state == experiment_pb2.EXPERIMENT_STATE_CREATED


async def test_what_was_never_blocked_has_no_entry(stages: Stages) -> None:
    request = pb.GetBlacklistEntryRequest(configuration_hash="0" * 64)
    with pytest.raises(faults.NotFound) as caught:
        await stages.author.stub(BlacklistServiceStub).GetBlacklistEntry(request)
    assert caught.value.reason == "BLACKLIST_ENTRY_NOT_FOUND"
    with pytest.raises(faults.NotFound):
        await review(stages, "0" * 64, release=False, state=blacklist_pb2.BLACKLIST_REVIEW_STATE_REVIEWED)


async def test_only_quarantine_blocks_and_only_its_own_tenant(stages: Stages, suite: Suite) -> None:
    experiment = await stages.create()
    request = pb.BlockConfigurationRequest(
        configuration_hash=experiment.configuration_hash,
        quarantine_record_id=str(uuid.uuid4()),
        quarantined_by=stages.reviewer.id,
        reason="r",
    )
    with pytest.raises(faults.PermissionDenied):
        await stages.author.stub(BlacklistServiceStub).BlockConfiguration(request)
    elsewhere = await suite.service("quarantine", str(uuid.uuid4()))
    await elsewhere.stub(BlacklistServiceStub).BlockConfiguration(request)
    assert await state_of(stages, experiment.id) == "created"
    with pytest.raises(faults.PermissionDenied):
        await (
            stages.author.colleague(Role.ROLE_USER)
            .stub(BlacklistServiceStub)
            .ListBlacklistEntries(pb.ListBlacklistEntriesRequest())
        )


async def test_creating_and_blocking_at_once_never_leave_a_live_blocked_experiment(stages: Stages) -> None:
    for _ in range(10):
        given = configuration()
        known = await stages.create(given)
        ends = await asyncio.gather(
            *(stages.create(given) for _ in range(3)), stages.block(known.configuration_hash), return_exceptions=True
        )
        for end in ends[:3]:
            if isinstance(end, experiment_pb2.Experiment):
                assert await state_of(stages, end.id) == "quarantined"
            else:
                assert isinstance(end, faults.FailedPrecondition)
                assert end.reason == "CONFIGURATION_BLACKLISTED"


async def test_approving_and_blocking_at_once_never_approve_what_is_blocked(stages: Stages) -> None:
    """Fifty races; each ends with the promotion completed before the block, or rejected and production untouched."""
    ends = {"completed": 0, "rejected": 0}
    promotions = stages.author.stub(PromotionServiceStub)
    for turn in range(50):
        delay = 0.004 * (turn % 25)  # from at once to when the approval has gone all the way
        before = await stages.production()
        promotion = await stages.ask(await stages.write_evaluation())

        async def block(delay: float = delay, configuration_hash: str = promotion.configuration_hash) -> None:
            await asyncio.sleep(delay)
            await stages.block(configuration_hash)

        await asyncio.gather(stages.approve(promotion), block(), return_exceptions=True)
        await stages.block(promotion.configuration_hash)
        request = promotion_service_pb2.GetPromotionRequest(promotion_id=promotion.id)
        found = (await promotions.GetPromotion(request)).promotion
        moved = await stages.production() == promotion.from_version_id
        if found.state == promotion_pb2.PROMOTION_STATE_COMPLETED:
            ends["completed"] += 1
            assert moved
        else:
            ends["rejected"] += 1
            assert found.state == promotion_pb2.PROMOTION_STATE_REJECTED
            assert not moved
            assert await stages.production() == before
    assert sum(ends.values()) == 50
