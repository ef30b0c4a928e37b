"""The stages of an experiment's life, reached over the wire with the real projects service beside it."""

import uuid
from collections.abc import Sequence
from typing import Any

from google.protobuf.struct_pb2 import Struct

from services.kit import faults
from tests.experiments.rows import Rows
from tests.patience import eventually
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1 import (
    blacklist_service_pb2 as blacklist_pb,
    dataset_service_pb2 as dataset_pb,
    evaluation_service_pb2 as evaluation_pb,
    experiment_service_pb2 as pb,
    promotion_service_pb2 as promotion_pb,
)
from triptych.experiments.v1.blacklist_pb2 import BlacklistEntry
from triptych.experiments.v1.blacklist_service_pb2_grpc import BlacklistServiceStub
from triptych.experiments.v1.dataset_pb2 import Dataset, DatasetItem
from triptych.experiments.v1.dataset_service_pb2_grpc import DatasetServiceStub
from triptych.experiments.v1.evaluation_pb2 import Evaluation
from triptych.experiments.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from triptych.experiments.v1.experiment_pb2 import ARM_CANDIDATE, ARM_PRODUCTION, Experiment, ItemResult
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.experiments.v1.promotion_pb2 import PROMOTION_STATE_COMPLETED, PROMOTION_STATE_REJECTED, Promotion
from triptych.experiments.v1.promotion_service_pb2_grpc import PromotionServiceStub
from triptych.projects.v1 import (
    baseline_service_pb2 as baseline_pb,
    project_service_pb2 as project_pb,
    version_service_pb2 as version_pb,
)
from triptych.projects.v1.baseline_pb2 import BASELINE_OPERATOR_AT_LEAST, Baseline
from triptych.projects.v1.baseline_service_pb2_grpc import BaselineServiceStub
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub

N = 100


def configuration(**values: Any) -> Struct:
    """A configuration of its own, unless values say which."""
    struct = Struct()
    struct.update(values or {"model": "m", "nonce": str(uuid.uuid4())})
    return struct


def said(right: int, n: int = N, arm: int = ARM_CANDIDATE, *, latency_ms: float = 100.0) -> list[ItemResult]:
    """Results of an arm whose first `right` answers are right."""
    return [
        ItemResult(
            item_id=f"p{index:03}",
            arm=arm,  # type: ignore[arg-type]
            answer="yes" if index < right else "no",
            latency_ms=latency_ms,
            cost_usd="0.01",
        )
        for index in range(n)
    ]


class Stages:
    """A tenant with two admins, a project that demands an accuracy of 0.85, and a dataset of a hundred items."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.author = suite.person(Role.ROLE_ADMIN)
        self.reviewer = self.author.colleague(Role.ROLE_ADMIN)
        self.project_id = ""
        self.dataset_id = ""

    @classmethod
    async def open(cls, suite: Suite) -> "Stages":
        """Start the services and make project and dataset."""
        await suite.start("projects", "experiments")
        stages = cls(suite)
        project = project_pb.CreateProjectRequest(project=Project(name=f"project {uuid.uuid4()}"))
        stages.project_id = (await stages.author.stub(ProjectServiceStub).CreateProject(project)).project.id
        await stages.demand(
            Baseline(
                metric_key="accuracy", operator=BASELINE_OPERATOR_AT_LEAST, threshold=0.85, project_id=stages.project_id
            )
        )
        stages.dataset_id = await stages.dataset()
        return stages

    async def demand(self, *wanted: Baseline) -> None:
        """Let the project demand this and nothing else."""
        baselines = self.author.stub(BaselineServiceStub)
        page = await baselines.ListBaselines(
            baseline_pb.ListBaselinesRequest(project_id=self.project_id, page_size=200)
        )
        for baseline in page.baselines:
            request = baseline_pb.UpdateBaselineRequest(baseline=Baseline(id=baseline.id, active=False))
            request.update_mask.paths.append("active")
            await baselines.UpdateBaseline(request)
        for baseline in wanted:
            await baselines.CreateBaseline(baseline_pb.CreateBaselineRequest(baseline=baseline))

    async def dataset(self, n: int = N, **more: Any) -> str:
        """A dataset whose right answers are all yes."""
        items = [
            DatasetItem(**{"item_id": f"p{index:03}", "content_sha256": "a" * 64, "label": "yes"} | more)
            for index in range(n)
        ]
        request = dataset_pb.CreateDatasetRequest(dataset=Dataset(name=str(uuid.uuid4())), items=items)
        return (await self.author.stub(DatasetServiceStub).CreateDataset(request)).dataset.id

    def request(self, given: Struct | None = None, **more: Any) -> pb.CreateExperimentRequest:
        """A request for an experiment."""
        experiment = Experiment(
            project_id=self.project_id,
            dataset_id=self.dataset_id,
            name="candidate",
            configuration=given or configuration(),
        )
        experiment.MergeFrom(Experiment(**more))
        return pb.CreateExperimentRequest(experiment=experiment)

    async def create(self, given: Struct | None = None, **more: Any) -> Experiment:
        """A created experiment."""
        stub = self.author.stub(ExperimentServiceStub)
        return (await stub.CreateExperiment(self.request(given, **more))).experiment

    async def start(self, given: Struct | None = None, **more: Any) -> Experiment:
        """A running experiment."""
        experiment = await self.create(given, **more)
        request = pb.StartExperimentRequest(experiment_id=experiment.id)
        return (await self.author.stub(ExperimentServiceStub).StartExperiment(request)).experiment

    async def record(self, experiment: Experiment, results: Sequence[ItemResult]) -> pb.RecordResultsResponse:
        """Record results."""
        request = pb.RecordResultsRequest(experiment_id=experiment.id, results=results)
        return await self.author.stub(ExperimentServiceStub).RecordResults(request)

    async def complete(self, right: int, given: Struct | None = None, *, production: int | None = None) -> Experiment:
        """A completed experiment whose candidate was right so often."""
        experiment = await self.start(given)
        await self.record(experiment, said(right))
        if production is not None:
            await self.record(experiment, said(production, arm=ARM_PRODUCTION))
        request = pb.CompleteExperimentRequest(experiment_id=experiment.id)
        return (await self.author.stub(ExperimentServiceStub).CompleteExperiment(request)).experiment

    async def evaluate(self, right: int, given: Struct | None = None, *, production: int | None = None) -> Evaluation:
        """The evaluation of an experiment whose candidate was right so often."""
        experiment = await self.complete(right, given, production=production)
        request = evaluation_pb.CreateEvaluationRequest(experiment_id=experiment.id)
        return (await self.author.stub(EvaluationServiceStub).CreateEvaluation(request)).evaluation

    async def write_evaluation(self, given: Struct | None = None) -> Evaluation:
        """An evaluation that passes, written as rows: most tests care little for its statistics."""
        experiment = await self.create(given)
        page = await self.author.stub(BaselineServiceStub).ListBaselines(
            baseline_pb.ListBaselinesRequest(project_id=self.project_id)
        )
        async with self.suite.runtimes["experiments"].db.pool.acquire() as connection:
            app = Rows(connection, self.author.tenant_id)
            production = await self.production() or None
            start = "UPDATE experiments SET state = 'running', production_version_id = $2 WHERE id = $1"
            await app.run(start, experiment.id, production)
            await app.run("UPDATE experiments SET state = 'completed' WHERE id = $1", experiment.id)
            evaluation_id = await app.run(
                "INSERT INTO evaluations (tenant_id, experiment_id, experiment_created_by, project_id,"
                " configuration_hash, dataset_digest, baseline_revision, metrics, gates, verdict, confidence, seed,"
                " created_by) SELECT tenant_id, id, created_by, project_id, configuration_hash, $2, $3, $4, $4, 'pass',"
                " 1, 1, created_by FROM experiments WHERE id = $1 RETURNING id",
                experiment.id,
                "a" * 64,
                page.revision,
                [],
            )
            await app.run("UPDATE experiments SET state = 'evaluating' WHERE id = $1", experiment.id)
        return Evaluation(id=str(evaluation_id))

    async def production(self) -> str:
        """The version in production; empty when there is none."""
        request = version_pb.GetProductionVersionRequest(project_id=self.project_id)
        try:
            return (await self.author.stub(VersionServiceStub).GetProductionVersion(request)).version.id
        except faults.FailedPrecondition:
            return ""

    async def ask(self, evaluation: Evaluation | None = None) -> Promotion:
        """A promotion that the author asked for."""
        evaluation = evaluation or await self.write_evaluation()
        request = promotion_pb.RequestPromotionRequest(evaluation_id=evaluation.id, reason="it is better")
        return (await self.author.stub(PromotionServiceStub).RequestPromotion(request)).promotion

    async def write_approval(self, promotion: Promotion) -> None:
        """The reviewer's approval, written as rows: what a process that died right after it leaves behind."""
        async with self.suite.runtimes["experiments"].db.pool.acquire() as connection:
            app = Rows(connection, self.author.tenant_id)
            app.requester = self.author.id
            digest = promotion.subject_digest
            await app.approve(promotion.id, approver_id=self.reviewer.id, subject_digest=digest)
            approve = "UPDATE promotions SET state = 'approved', approver_id = $2 WHERE id = $1"
            await app.run(approve, promotion.id, self.reviewer.id)

    async def settled(self, promotion: Promotion) -> Promotion:
        """The promotion once the background loop has ended it."""
        stub, request = (
            self.author.stub(PromotionServiceStub),
            promotion_pb.GetPromotionRequest(promotion_id=promotion.id),
        )

        async def found() -> Promotion:
            return (await stub.GetPromotion(request)).promotion

        ended = {PROMOTION_STATE_COMPLETED, PROMOTION_STATE_REJECTED}
        return await eventually(found, lambda promotion: promotion.state in ended)

    async def approve(self, promotion: Promotion, person: Person | None = None, **more: Any) -> Promotion:
        """The reviewer's approval."""
        request = promotion_pb.ApprovePromotionRequest(
            **{"promotion_id": promotion.id, "subject_digest": promotion.subject_digest, "reason": "agreed"} | more
        )
        return (await (person or self.reviewer).stub(PromotionServiceStub).ApprovePromotion(request)).promotion

    async def block(self, configuration_hash: str, record_id: str | None = None) -> BlacklistEntry:
        """Quarantine blocks a configuration."""
        quarantine = await self.suite.service("quarantine", self.author.tenant_id)
        request = blacklist_pb.BlockConfigurationRequest(
            configuration_hash=configuration_hash,
            quarantine_record_id=record_id or str(uuid.uuid4()),
            quarantined_by=self.reviewer.id,
            reason="it missed a weakness",
        )
        request.evidence.update({"item": "p001"})
        return (await quarantine.stub(BlacklistServiceStub).BlockConfiguration(request)).entry
