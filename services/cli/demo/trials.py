"""Steps 4 to 6: a candidate is tried, judged, and let in by two people."""

import hashlib
from typing import Any

from services.cli.demo import configurations
from services.cli.demo.runs import Run
from services.cli.demo.stage import ANSWERS, Stage, struct
from triptych.experiments.v1 import evaluation_service_pb2, experiment_service_pb2, promotion_service_pb2
from triptych.experiments.v1.comparison_pb2 import Comparison
from triptych.experiments.v1.comparison_service_pb2 import ListComparisonsRequest
from triptych.experiments.v1.comparison_service_pb2_grpc import ComparisonServiceStub
from triptych.experiments.v1.dataset_pb2 import Dataset, DatasetItem
from triptych.experiments.v1.dataset_service_pb2 import CreateDatasetRequest
from triptych.experiments.v1.dataset_service_pb2_grpc import DatasetServiceStub
from triptych.experiments.v1.evaluation_pb2 import Evaluation, Verdict
from triptych.experiments.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from triptych.experiments.v1.experiment_pb2 import Arm, Experiment
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.experiments.v1.promotion_pb2 import Promotion, PromotionState
from triptych.experiments.v1.promotion_service_pb2_grpc import PromotionServiceStub
from triptych.projects.v1.version_service_pb2 import GetProductionVersionRequest, RollBackProductionRequest
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub
from triptych.providers.v1.quota_service_pb2 import GetQuotaRequest
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub

Arms = dict[str, dict[str, Any]]


async def a_candidate_is_tried(stage: Stage) -> Experiment:
    """Step 4: an experiment over the whole corpus, each call under quota."""
    tell = stage.narrator
    tell.begin(4, "A candidate is tried beside production, item by item")
    await register(stage, "corpus")
    experiment = await run(stage, "both analysers", "corpus", configurations.CANDIDATE, configurations.PRODUCTION)
    windows = (await stage.cast["Ada"].client.stub(QuotaServiceStub).GetQuota(GetQuotaRequest())).windows
    used = {window.name: f"{window.committed} of {window.limit}, {window.held} held" for window in windows}
    tell.call("Ada", "QuotaService.GetQuota", f"requests today: {used['daily_requests']}")
    tell.got(f"cost today in USD: {used['daily_cost_usd']}")
    return experiment


async def it_is_judged(stage: Stage, experiment: Experiment) -> Evaluation:
    """Step 5: bounds, not points, against the baselines."""
    stage.narrator.begin(5, "It is judged by confidence bounds")
    evaluation = await judge(stage, experiment)
    stage.narrator.check(evaluation.effective_verdict == Verdict.VERDICT_PASS, "the candidate should pass")
    return evaluation


async def two_people_let_it_in(stage: Stage, evaluation: Evaluation) -> None:
    """Step 6: requested by one, approved by another."""
    tell = stage.narrator
    tell.begin(6, "Two people let it into production")
    promotion = await ask(stage, evaluation, "Catches far more at the price of a few false alarms.")
    tell.say("Ada cannot approve what she asked for, and Linus is no admin:")
    approval = promotion_service_pb2.ApprovePromotionRequest(
        promotion_id=promotion.id, subject_digest=promotion.subject_digest, reason="It is mine."
    )
    with stage.refused("SELF_APPROVAL"):
        await stage.cast["Ada"].client.stub(PromotionServiceStub).ApprovePromotion(approval)
    with stage.refused("CALLER_NOT_PERMITTED"):
        await stage.cast["Linus"].client.stub(PromotionServiceStub).ApprovePromotion(approval)
    stage.versions["both analysers"] = promotion.from_version_id
    await approve(stage, promotion, "Grace")


async def going_back_is_one_call(stage: Stage) -> None:
    """The end of step 9: production goes back to what it was before the candidate, by one admin."""
    request = RollBackProductionRequest(project_id=stage.project.id, reason="A customer compares with last month.")
    answer = await stage.cast["Ada"].client.stub(VersionServiceStub).RollBackProduction(request)
    back = name_of(stage, answer.version.id)
    stage.narrator.say("Two people let things in; one can go back to what two people had let in before:")
    stage.narrator.call("Ada", "VersionService.RollBackProduction", f"production is what it was at first: {back}")
    stage.narrator.check(back == "bandit alone", "production should be what it was before the candidate")


async def register(stage: Stage, name: str) -> None:
    """Register items as a dataset, by the hashes of their content."""
    items = stage.items_of(name)
    request = CreateDatasetRequest(
        dataset=Dataset(name=name, description="Short Python programs, weak or repaired."),
        items=[
            DatasetItem(
                item_id=item.id,
                content_sha256=hashlib.sha256(item.source.encode()).hexdigest(),
                label=ANSWERS[item.label],
                group=f"pair-{item.pair}",
            )
            for item in items
        ],
    )
    dataset = (await stage.cast["Ada"].client.stub(DatasetServiceStub).CreateDataset(request)).dataset
    stage.datasets[name] = dataset.id
    weaknesses = len({item.cwe for item in items})
    stage.narrator.call(
        "Ada", "DatasetService.CreateDataset", f"{name}: {dataset.item_count} programs, {weaknesses} CWEs"
    )
    stage.narrator.got(f"digest {dataset.digest}")


async def run(
    stage: Stage,
    name: str,
    dataset: str,
    candidate: dict[str, Any],
    production: dict[str, Any],
    *,
    reevaluation_id: str = "",
) -> Experiment:
    """Create, start, run and complete an experiment of a candidate against production."""
    ada = stage.cast["Ada"].client
    experiments = ada.stub(ExperimentServiceStub)
    spec = Experiment(
        project_id=stage.project.id, dataset_id=stage.datasets[dataset], name=name,
        configuration=struct(candidate), reevaluation_id=reevaluation_id,
    )  # fmt: skip
    created = await experiments.CreateExperiment(experiment_service_pb2.CreateExperimentRequest(experiment=spec))
    experiment_id = created.experiment.id
    await experiments.StartExperiment(experiment_service_pb2.StartExperimentRequest(experiment_id=experiment_id))
    stage.narrator.call("Ada", "ExperimentService.CreateExperiment, StartExperiment", f"{name}: {experiment_id}")
    stage.narrator.got(f"configuration {created.experiment.configuration_hash}")
    work = Run(ada, experiment_id, stage.analysers_id, stage.items_of(dataset))
    count = await work.arm(Arm.ARM_CANDIDATE, candidate) + await work.arm(Arm.ARM_PRODUCTION, production)
    stage.narrator.call("Ada", "ReserveQuota, analyse, CommitReservation, RecordResults", f"{count} results")
    done = await experiments.CompleteExperiment(
        experiment_service_pb2.CompleteExperimentRequest(experiment_id=experiment_id)
    )
    return done.experiment


async def judge(stage: Stage, experiment: Experiment) -> Evaluation:
    """Evaluate an experiment and show what was found."""
    tell = stage.narrator
    ada = stage.cast["Ada"].client
    answer = await ada.stub(EvaluationServiceStub).CreateEvaluation(
        evaluation_service_pb2.CreateEvaluationRequest(experiment_id=experiment.id)
    )
    evaluation = answer.evaluation
    tell.call("Ada", "EvaluationService.CreateEvaluation", f"evaluation {evaluation.id}, seed {evaluation.seed}")
    for metric in evaluation.metrics:
        beside = f"{metric.production:>10.4g}" if metric.HasField("production") else f"{'-':>10}"
        tell.got(f"{metric.key:<22} candidate {metric.candidate:>10.4g}   production {beside}   n={metric.n}")
    for gate in evaluation.gates:
        tell.got(f"{Verdict.Name(gate.verdict).removeprefix('VERDICT_').lower():<14} {gate.demand}: {gate.explanation}")
    report = await compare(stage, experiment)
    pairs = report.pairs
    tell.got(
        f"item by item: {pairs.only_candidate_correct} only the candidate had right, {pairs.only_production_correct} "
        f"only production, {pairs.both_correct} both, {pairs.both_wrong} neither"
    )
    tell.got(
        f"difference {report.difference:+.3f}, between {report.lower_bound:+.3f} and {report.upper_bound:+.3f}, "
        f"p = {report.p_value:.2g}"
    )
    verdict = Verdict.Name(evaluation.verdict).removeprefix("VERDICT_").lower()
    tell.got(f"verdict: {verdict}, confidence {evaluation.confidence:.3f}")
    return evaluation


async def compare(stage: Stage, experiment: Experiment) -> Comparison:
    """Give the report that was written with an experiment's evaluation."""
    stub = stage.cast["Ada"].client.stub(ComparisonServiceStub)
    return (await stub.ListComparisons(ListComparisonsRequest(experiment_id=experiment.id))).comparisons[0]


async def ask(stage: Stage, evaluation: Evaluation, reason: str) -> Promotion:
    """Request a promotion, as Ada."""
    answer = (
        await stage.cast["Ada"]
        .client.stub(PromotionServiceStub)
        .RequestPromotion(promotion_service_pb2.RequestPromotionRequest(evaluation_id=evaluation.id, reason=reason))
    )
    promotion = answer.promotion
    stage.narrator.call("Ada", "PromotionService.RequestPromotion", f"promotion {promotion.id}")
    for decision in promotion.policy_decisions:
        stage.narrator.got(f"policy {decision.policy_name} r{decision.revision}: allowed in {decision.duration_us} µs")
    stage.narrator.got(f"what is to be approved: {promotion.subject_digest}")
    return promotion


async def approve(stage: Stage, promotion: Promotion, name: str) -> None:
    """Approve a promotion as somebody else, and see production move."""
    answer = (
        await stage.cast[name]
        .client.stub(PromotionServiceStub)
        .ApprovePromotion(
            promotion_service_pb2.ApprovePromotionRequest(
                promotion_id=promotion.id, subject_digest=promotion.subject_digest, reason="The numbers convince me."
            )
        )
    )
    state = answer.promotion.state
    stage.narrator.call(name, "PromotionService.ApprovePromotion", PromotionState.Name(state))
    stage.narrator.check(state == PromotionState.PROMOTION_STATE_COMPLETED, "the promotion should be completed")
    version = (
        await stage.cast["Linus"]
        .client.stub(VersionServiceStub)
        .GetProductionVersion(GetProductionVersionRequest(project_id=stage.project.id))
    ).version
    stage.narrator.check(version.id == promotion.from_version_id, "production should have moved")
    stage.narrator.got(f"production is now version {version.id}")


def name_of(stage: Stage, version_id: str) -> str:
    """The name of the configuration that a version holds."""
    return next((name for name, known in stage.versions.items() if known == version_id), version_id)
