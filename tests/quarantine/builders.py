"""What tests of quarantine begin with: a version in production, a request, a sealed record, a new evaluation."""

import hashlib
import uuid
from typing import Any, TypeVar

import asyncpg
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from tests.quarantine.database import APP, Hand, role
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1 import (
    dataset_pb2,
    dataset_service_pb2,
    evaluation_pb2,
    evaluation_service_pb2,
    experiment_pb2,
    experiment_service_pb2,
)
from triptych.experiments.v1.dataset_service_pb2_grpc import DatasetServiceStub
from triptych.experiments.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.projects.v1 import project_service_pb2, version_service_pb2
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub
from triptych.projects.v1.version_pb2 import Version
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub
from triptych.quarantine.v1 import quarantine_service_pb2 as pb, reevaluation_service_pb2
from triptych.quarantine.v1.quarantine_pb2 import QuarantineReason, QuarantineRecord, QuarantineRequest
from triptych.quarantine.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from triptych.quarantine.v1.reevaluation_pb2 import Reevaluation
from triptych.quarantine.v1.reevaluation_service_pb2_grpc import ReevaluationServiceStub

NOW = Duration(seconds=0)
Answer = TypeVar("Answer")


def struct(**values: Any) -> Struct:
    """Make a Struct."""
    made = Struct()
    made.update(values)
    return made


async def production(admin: Person, **configuration: Any) -> Version:
    """Create a project whose production runs a configuration that nobody else has."""
    values = {"model": "small", "seed": str(uuid.uuid4())} | configuration
    projects = admin.stub(ProjectServiceStub)
    created = await projects.CreateProject(
        project_service_pb2.CreateProjectRequest(
            project=Project(name=f"reviewer {uuid.uuid4()}"), production_configuration=struct(**values)
        )
    )
    return await production_of(admin, created.project.id)


async def production_of(admin: Person, project_id: str) -> Version:
    """Give the version in production."""
    answer = await admin.stub(VersionServiceStub).GetProductionVersion(
        version_service_pb2.GetProductionVersionRequest(project_id=project_id)
    )
    return answer.version


async def version(admin: Person, version_id: str) -> Version:
    """Give a version."""
    answer = await admin.stub(VersionServiceStub).GetVersion(
        version_service_pb2.GetVersionRequest(version_id=version_id)
    )
    return answer.version


async def supersede(suite: Suite, admin: Person, incumbent: Version, **configuration: Any) -> Version:
    """Let another configuration into production, as experiments does when a promotion is complete."""
    versions = (await suite.service("experiments", admin)).stub(VersionServiceStub)
    values = {"model": "large", "seed": str(uuid.uuid4())} | configuration
    created = await versions.CreateVersion(
        version_service_pb2.CreateVersionRequest(project_id=incumbent.project_id, configuration=struct(**values))
    )
    promoted = await versions.PromoteVersion(
        version_service_pb2.PromoteVersionRequest(
            version_id=created.version.id,
            expected_production_version_id=incumbent.id,
            approved_by=str(uuid.uuid4()),
            reason="it was better",
        )
    )
    return promoted.version


def quarantine_request(version_id: str, **changes: Any) -> pb.RequestQuarantineRequest:
    """Make a request to seal a version."""
    values: dict[str, Any] = {
        "version_id": version_id,
        "reason": QuarantineReason.QUARANTINE_REASON_REGRESSION,
        "explanation": "accuracy fell by ten points on the second day",
        "evidence": struct(metrics={"accuracy": 0.71, "n": 400}),
        "cool_down": NOW,
    }
    return pb.RequestQuarantineRequest(**(values | changes))


async def ask(admin: Person, version_id: str, **changes: Any) -> QuarantineRequest:
    """Ask to seal a version."""
    request = quarantine_request(version_id, **changes)
    return (await admin.stub(QuarantineServiceStub).RequestQuarantine(request)).request


async def approve(admin: Person, request: QuarantineRequest, **changes: Any) -> QuarantineRequest:
    """Approve a request."""
    approval = pb.ApproveQuarantineRequest(quarantine_request_id=request.id, reason="I saw it too", **changes)
    return (await admin.stub(QuarantineServiceStub).ApproveQuarantine(approval)).request


async def seal(admin: Person, version_id: str, **changes: Any) -> QuarantineRecord:
    """Seal a version with the help of another admin, and wait until it is done."""
    request = await approve(admin.colleague(Role.ROLE_ADMIN), await ask(admin, version_id, **changes))
    return await record(admin, request.record_id)


async def record(admin: Person, record_id: str) -> QuarantineRecord:
    """Give a record."""
    return (await admin.stub(QuarantineServiceStub).GetRecord(pb.GetRecordRequest(record_id=record_id))).record


async def sealed_by_hand(suite: Suite, admin: Person, **changes: Any) -> asyncpg.Record:
    """Write a completed record into the database of the admin's tenant; for tests that need no neighbour."""
    async with role(suite, APP, admin.tenant_id) as connection:
        return await Hand(connection, admin.tenant_id).sealed(**changes)


def reevaluation_request(record_id: object, **changes: Any) -> reevaluation_service_pb2.RequestReevaluationRequest:
    """Make a request to try a record's configuration again."""
    values: dict[str, Any] = {
        "record_id": str(record_id),
        "reason": "the tokenizer that broke it was repaired",
        "evidence": struct(commit="4f2a91"),
    }
    return reevaluation_service_pb2.RequestReevaluationRequest(**(values | changes))


async def ask_again(admin: Person, record_id: object, **changes: Any) -> Reevaluation:
    """Ask to try a record's configuration again."""
    request = reevaluation_request(record_id, **changes)
    return (await admin.stub(ReevaluationServiceStub).RequestReevaluation(request)).reevaluation


async def agree(admin: Person, reevaluation: Reevaluation, **changes: Any) -> Reevaluation:
    """Approve a re-evaluation."""
    request = reevaluation_service_pb2.ApproveReevaluationRequest(
        reevaluation_id=reevaluation.id, reason="worth another try", **changes
    )
    return (await admin.stub(ReevaluationServiceStub).ApproveReevaluation(request)).reevaluation


async def evaluate(admin: Person, reevaluation: Reevaluation, record: QuarantineRecord) -> evaluation_pb2.Evaluation:
    """Try the sealed configuration in a new experiment of sixty items, and judge it."""
    experiment = await _experiment(admin, reevaluation, record)
    experiments = admin.stub(ExperimentServiceStub)
    await experiments.StartExperiment(experiment_service_pb2.StartExperimentRequest(experiment_id=experiment.id))
    arms = [experiment_pb2.ARM_CANDIDATE]
    started = await experiments.GetExperiment(experiment_service_pb2.GetExperimentRequest(experiment_id=experiment.id))
    if started.experiment.production_version_id:
        arms.append(experiment_pb2.ARM_PRODUCTION)
    results = [
        experiment_pb2.ItemResult(item_id=f"item-{number}", arm=arm, answer="ok", latency_ms=10.0, cost_usd="0.001")
        for number in range(60)
        for arm in arms
    ]
    await experiments.RecordResults(
        experiment_service_pb2.RecordResultsRequest(experiment_id=experiment.id, results=results)
    )
    await experiments.CompleteExperiment(experiment_service_pb2.CompleteExperimentRequest(experiment_id=experiment.id))
    judged = await admin.stub(EvaluationServiceStub).CreateEvaluation(
        evaluation_service_pb2.CreateEvaluationRequest(experiment_id=experiment.id)
    )
    return judged.evaluation


async def override(admin: Person, evaluation: evaluation_pb2.Evaluation, verdict: Any) -> None:
    """Set a person's verdict over that of the statistics."""
    await admin.stub(EvaluationServiceStub).OverrideEvaluation(
        evaluation_service_pb2.OverrideEvaluationRequest(
            evaluation_id=evaluation.id, verdict=verdict, reason="read each of the sixty answers"
        )
    )


async def complete(admin: Person, reevaluation: Reevaluation, evaluation_id: str, **changes: Any) -> Reevaluation:
    """End a re-evaluation."""
    request = reevaluation_service_pb2.CompleteReevaluationRequest(
        reevaluation_id=reevaluation.id, evaluation_id=evaluation_id, **changes
    )
    return (await admin.stub(ReevaluationServiceStub).CompleteReevaluation(request)).reevaluation


async def _experiment(admin: Person, reevaluation: Reevaluation, record: QuarantineRecord) -> experiment_pb2.Experiment:
    items = [
        dataset_pb2.DatasetItem(
            item_id=f"item-{number}", content_sha256=hashlib.sha256(str(number).encode()).hexdigest(), label="ok"
        )
        for number in range(60)
    ]
    dataset = await admin.stub(DatasetServiceStub).CreateDataset(
        dataset_service_pb2.CreateDatasetRequest(
            dataset=dataset_pb2.Dataset(name=f"sixty items {uuid.uuid4()}"), items=items
        )
    )
    created = await admin.stub(ExperimentServiceStub).CreateExperiment(
        experiment_service_pb2.CreateExperimentRequest(
            experiment=experiment_pb2.Experiment(
                project_id=record.project_id,
                dataset_id=dataset.dataset.id,
                name="once more",
                configuration=record.configuration,
                reevaluation_id=reevaluation.id,
            )
        )
    )
    return created.experiment
