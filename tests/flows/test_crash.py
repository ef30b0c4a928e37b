"""kill -9 in the middle of a decision: nothing is lost, nothing happens twice."""

import uuid
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from services.cli.demo import arrivals, configurations
from services.cli.demo.stage import Stage, struct
from services.kit import faults
from tests.flows.installation import installation
from tests.patience import eventually, many_rounds
from triptych.audit.v1 import audit_service_pb2
from triptych.audit.v1.audit_service_pb2 import ListEventsRequest, VerifyLogRequest
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.event_pb2 import LogEntry
from triptych.experiments.v1 import evaluation_service_pb2, experiment_service_pb2, promotion_service_pb2
from triptych.experiments.v1.dataset_pb2 import Dataset, DatasetItem
from triptych.experiments.v1.dataset_service_pb2 import CreateDatasetRequest
from triptych.experiments.v1.dataset_service_pb2_grpc import DatasetServiceStub
from triptych.experiments.v1.evaluation_pb2 import Verdict
from triptych.experiments.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from triptych.experiments.v1.experiment_pb2 import Arm, Experiment, ItemResult
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.experiments.v1.promotion_pb2 import Promotion, PromotionState
from triptych.experiments.v1.promotion_service_pb2_grpc import PromotionServiceStub
from triptych.projects.v1.version_pb2 import VersionTag
from triptych.projects.v1.version_service_pb2 import ListVersionsRequest
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub

ITEMS = 120


@many_rounds
async def test_the_experiments_service_dies_between_approved_and_completed() -> None:
    with installation(TRIPTYCH_EXPERIMENTS_CRASH_AFTER="promotion.approved") as stage:
        try:
            await arrivals.people_arrive(stage)
            await arrivals.a_key_is_sealed(stage)
            await arrivals.a_project_begins(stage)
            promotion = await _requested(stage)
            await _approved_into_the_crash(stage, promotion)
            completed = await _completed(stage, promotion)
            await _one_version_is_in_production(stage, completed)
            await _the_trail_is_complete(stage, promotion)
        finally:
            await stage.town.leave()


async def _requested(stage: Stage) -> Promotion:
    """An experiment that passes, and the request to promote it."""
    ada = stage.cast["Ada"].client
    items = [
        DatasetItem(item_id=f"i{n}", content_sha256=f"{n:064x}", label="weak" if n % 2 else "clean")
        for n in range(ITEMS)
    ]
    dataset = await ada.stub(DatasetServiceStub).CreateDataset(
        CreateDatasetRequest(dataset=Dataset(name="crash"), items=items)
    )
    experiments = ada.stub(ExperimentServiceStub)
    spec = Experiment(
        project_id=stage.project.id,
        dataset_id=dataset.dataset.id,
        name="crash",
        configuration=struct(configurations.CANDIDATE),
    )
    created = await experiments.CreateExperiment(experiment_service_pb2.CreateExperimentRequest(experiment=spec))
    experiment_id = created.experiment.id
    await experiments.StartExperiment(experiment_service_pb2.StartExperimentRequest(experiment_id=experiment_id))
    for arm, right in ((Arm.ARM_CANDIDATE, ITEMS), (Arm.ARM_PRODUCTION, ITEMS - 30)):
        results = [
            ItemResult(item_id=item.item_id, arm=arm, answer=item.label if n < right else "other", latency_ms=5.0)
            for n, item in enumerate(items)
        ]
        await experiments.RecordResults(
            experiment_service_pb2.RecordResultsRequest(experiment_id=experiment_id, results=results)
        )
    await experiments.CompleteExperiment(experiment_service_pb2.CompleteExperimentRequest(experiment_id=experiment_id))
    evaluated = await ada.stub(EvaluationServiceStub).CreateEvaluation(
        evaluation_service_pb2.CreateEvaluationRequest(experiment_id=experiment_id)
    )
    assert evaluated.evaluation.verdict == Verdict.VERDICT_PASS, evaluated.evaluation
    asked = await ada.stub(PromotionServiceStub).RequestPromotion(
        promotion_service_pb2.RequestPromotionRequest(evaluation_id=evaluated.evaluation.id, reason="It is better.")
    )
    return asked.promotion


async def _approved_into_the_crash(stage: Stage, promotion: Promotion) -> None:
    """The process kills itself right after the approval is committed: the caller learns nothing but that it is away."""
    approval = promotion_service_pb2.ApprovePromotionRequest(
        promotion_id=promotion.id,
        subject_digest=promotion.subject_digest,
        reason="Yes.",
        request_id=str(uuid.uuid4()),
    )
    with pytest.raises(faults.Unavailable):
        await stage.cast["Grace"].client.stub(PromotionServiceStub).ApprovePromotion(approval)


async def _completed(stage: Stage, promotion: Promotion) -> Promotion:
    """The service comes back by itself and finishes what it began."""
    stub = stage.cast["Ada"].client.stub(PromotionServiceStub)
    request = promotion_service_pb2.GetPromotionRequest(promotion_id=promotion.id)

    async def found() -> Promotion | None:
        with suppress(faults.Unavailable):
            now = (await stub.GetPromotion(request)).promotion
            assert now.state != PromotionState.PROMOTION_STATE_PENDING, "an acknowledged approval was lost"
            return now if now.state == PromotionState.PROMOTION_STATE_COMPLETED else None
        return None

    return await eventually(found)


async def _one_version_is_in_production(stage: Stage, promotion: Promotion) -> None:
    versions = stage.cast["Ada"].client.stub(VersionServiceStub)
    listed = await versions.ListVersions(
        ListVersionsRequest(project_id=stage.project.id, tag=VersionTag.VERSION_TAG_V2)
    )
    assert [version.id for version in listed.versions if version.current] == [promotion.from_version_id]
    assert len(listed.versions) == 2


async def _the_trail_is_complete(stage: Stage, promotion: Promotion) -> None:
    """Each fact stands in the log once, sources count without gaps, and the log verifies."""
    once = {
        "experiments.promotion.request",
        "experiments.promotion.approve",
        "experiments.promotion.complete",
        "projects.version.promote",
    }
    audit = stage.cast["Ada"].client.stub(AuditServiceStub)
    entries = await eventually(  # the relay brings them
        lambda: _log(audit), lambda entries: once <= {entry.event.action for entry in entries}
    )
    counts = Counter(entry.event.action for entry in entries)
    assert {action: counts[action] for action in once} == dict.fromkeys(once, 1)
    for source in {entry.event.source for entry in entries}:
        numbers = sorted(entry.event.source_seq for entry in entries if entry.event.source == source)
        assert numbers == list(range(1, len(numbers) + 1)), source

    async def verdict() -> "audit_service_pb2.LogVerdict.ValueType":
        *_, last = [progress async for progress in audit.VerifyLog(VerifyLogRequest())]
        assert last.verdict != audit_service_pb2.LOG_VERDICT_TAMPERED, last.finding
        return last.verdict

    await eventually(verdict, lambda found: found == audit_service_pb2.LOG_VERDICT_OK)
    assert promotion.id in str(entries)


async def _log(audit: Any) -> list[LogEntry]:
    entries: list[LogEntry] = []
    token = ""
    while True:
        page = await audit.ListEvents(ListEventsRequest(page_size=200, page_token=token))
        entries += page.entries
        token = page.next_page_token
        if not token:
            return entries
