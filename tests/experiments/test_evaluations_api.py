"""EvaluationService and ComparisonService over the wire, with the real projects service."""

import asyncio
import sys
import uuid

import pytest

from services.kit import faults
from tests.experiments.stages import N, Stages
from tests.patience import output
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1 import (
    comparison_service_pb2,
    evaluation_pb2,
    evaluation_service_pb2 as pb,
    experiment_pb2,
    experiment_service_pb2,
)
from triptych.experiments.v1.comparison_service_pb2_grpc import ComparisonServiceStub
from triptych.experiments.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.projects.v1.baseline_pb2 import BASELINE_OPERATOR_NOT_INFERIOR, Baseline


@pytest.fixture
async def stages(suite: Suite) -> Stages:
    return await Stages.open(suite)


def override(
    evaluation: evaluation_pb2.Evaluation, verdict: int = evaluation_pb2.VERDICT_PASS
) -> pb.OverrideEvaluationRequest:
    return pb.OverrideEvaluationRequest(
        evaluation_id=evaluation.id,
        verdict=verdict,  # type: ignore[arg-type]
        reason="looked at every item",
    )


async def test_a_good_candidate_passes_and_everything_that_decided_it_is_stored(stages: Stages) -> None:
    evaluation = await stages.evaluate(N)
    assert evaluation.verdict == evaluation.effective_verdict == evaluation_pb2.VERDICT_PASS
    assert evaluation.confidence == pytest.approx(0.95)
    assert evaluation.created_by == stages.author.id
    assert evaluation.seed > 0
    gates = {gate.metric_key: gate for gate in evaluation.gates}
    assert set(gates) == {"complete_results", "same_items", "minimum_items", "active_baselines", "accuracy"}
    assert gates["accuracy"].demand == "accuracy >= 0.85 at 95 %"
    assert gates["accuracy"].method == "wilson"
    assert gates["accuracy"].bound == pytest.approx(0.9737, abs=0.0001)
    metrics = {metric.key: metric for metric in evaluation.metrics}
    assert metrics["accuracy"].candidate == 1.0
    assert not metrics["accuracy"].HasField("production")
    assert metrics["cost_usd"].candidate == pytest.approx(1.0)
    stub = stages.author.stub(EvaluationServiceStub)
    assert (await stub.GetEvaluation(pb.GetEvaluationRequest(evaluation_id=evaluation.id))).evaluation == evaluation
    listed = await stub.ListEvaluations(pb.ListEvaluationsRequest(project_id=stages.project_id))
    assert list(listed.evaluations) == [evaluation]


@pytest.mark.parametrize(("right", "verdict"), [(60, "VERDICT_FAIL"), (87, "VERDICT_MANUAL_REVIEW")])
async def test_a_bad_candidate_fails_and_one_in_between_goes_to_a_person(
    stages: Stages, right: int, verdict: str
) -> None:
    evaluation = await stages.evaluate(right)
    assert evaluation.verdict == evaluation_pb2.Verdict.Value(verdict)
    assert "would pass" in evaluation.gates[-1].explanation


async def test_an_experiment_is_judged_once_however_many_ask(stages: Stages) -> None:
    experiment = await stages.complete(N)
    stub = stages.author.stub(EvaluationServiceStub)
    request = pb.CreateEvaluationRequest(experiment_id=experiment.id)
    ends = await asyncio.gather(*(stub.CreateEvaluation(request) for _ in range(3)), return_exceptions=True)
    refused = [end for end in ends if isinstance(end, faults.FailedPrecondition)]
    assert len(refused) == 2
    assert {fault.reason for fault in refused} == {"EXPERIMENT_STATE_CONFLICT"}
    get = experiment_service_pb2.GetExperimentRequest(experiment_id=experiment.id)
    found = (await stages.author.stub(ExperimentServiceStub).GetExperiment(get)).experiment
    assert found.state == experiment_pb2.EXPERIMENT_STATE_EVALUATING


async def test_the_same_request_id_gives_the_same_evaluation(stages: Stages) -> None:
    experiment = await stages.complete(N)
    stub = stages.author.stub(EvaluationServiceStub)
    request = pb.CreateEvaluationRequest(experiment_id=experiment.id, request_id=str(uuid.uuid4()))
    assert await stub.CreateEvaluation(request) == await stub.CreateEvaluation(request)


async def test_what_is_not_completed_is_not_judged(stages: Stages) -> None:
    experiment = await stages.start()
    request = pb.CreateEvaluationRequest(experiment_id=experiment.id)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.author.stub(EvaluationServiceStub).CreateEvaluation(request)
    assert caught.value.facts == {"state": "running", "needed": "completed"}


async def test_candidate_and_production_are_compared_item_by_item(stages: Stages) -> None:
    await stages.approve(await stages.ask())
    await stages.demand(
        Baseline(
            project_id=stages.project_id, metric_key="accuracy", operator=BASELINE_OPERATOR_NOT_INFERIOR, margin=0.05
        )
    )
    evaluation = await stages.evaluate(98, production=90)
    assert evaluation.verdict == evaluation_pb2.VERDICT_PASS
    metrics = {metric.key: metric for metric in evaluation.metrics}
    assert (metrics["accuracy"].candidate, metrics["accuracy"].production) == (0.98, 0.9)
    comparisons = stages.author.stub(ComparisonServiceStub)
    request = comparison_service_pb2.ListComparisonsRequest(experiment_id=evaluation.experiment_id)
    (report,) = (await comparisons.ListComparisons(request)).comparisons
    pairs = report.pairs
    assert (pairs.both_correct, pairs.only_candidate_correct, pairs.only_production_correct, pairs.both_wrong) == (
        90,
        8,
        0,
        2,
    )
    assert report.difference == pytest.approx(0.08)
    assert 0 < report.lower_bound < 0.08 < report.upper_bound
    assert report.p_value == pytest.approx(1 / 256)
    get = comparison_service_pb2.GetComparisonRequest(comparison_id=report.id)
    assert (await comparisons.GetComparison(get)).comparison == report


async def test_production_without_results_is_never_read_as_good(stages: Stages) -> None:
    await stages.approve(await stages.ask())
    evaluation = await stages.evaluate(N)
    assert evaluation.verdict == evaluation_pb2.VERDICT_MANUAL_REVIEW
    assert [gate.metric_key for gate in evaluation.gates if gate.verdict != evaluation_pb2.VERDICT_PASS] == [
        "same_items"
    ]


async def test_somebody_else_overrides_once_and_with_a_reason(stages: Stages) -> None:
    evaluation = await stages.evaluate(87)
    for person, reason in (
        (stages.author, "OVERRIDE_BY_AUTHOR"),
        (stages.reviewer, ""),
        (stages.reviewer, "EVALUATION_OVERRIDDEN"),
    ):
        stub = person.stub(EvaluationServiceStub)
        if reason:
            with pytest.raises(faults.FailedPrecondition) as caught:
                await stub.OverrideEvaluation(override(evaluation))
            assert caught.value.reason == reason
            continue
        changed = (await stub.OverrideEvaluation(override(evaluation))).evaluation
        assert changed.verdict == evaluation_pb2.VERDICT_MANUAL_REVIEW
        assert changed.effective_verdict == evaluation_pb2.VERDICT_PASS
        assert changed.overridden_by == stages.reviewer.id
        assert changed.etag != evaluation.etag


async def test_an_override_needs_ten_characters_and_the_newest_etag(stages: Stages) -> None:
    evaluation = await stages.evaluate(87)
    stub = stages.reviewer.stub(EvaluationServiceStub)
    short = override(evaluation)
    short.reason = "too short"
    with pytest.raises(faults.InvalidArgument):
        await stub.OverrideEvaluation(short)
    stale = override(evaluation)
    stale.etag = '"7"'
    with pytest.raises(faults.Aborted) as caught:
        await stub.OverrideEvaluation(stale)
    assert caught.value.reason == "ETAG_MISMATCH"


async def test_an_evaluation_that_a_promotion_stands_on_stays_as_it_is(stages: Stages) -> None:
    evaluation = await stages.evaluate(N)
    await stages.ask(evaluation)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.reviewer.stub(EvaluationServiceStub).OverrideEvaluation(
            override(evaluation, evaluation_pb2.VERDICT_FAIL)
        )
    assert caught.value.reason == "EVALUATION_IN_USE"


async def test_another_tenants_evaluations_and_reports_look_like_none(stages: Stages, suite: Suite) -> None:
    evaluation = await stages.evaluate(N)
    stranger = suite.person(Role.ROLE_ADMIN)
    for evaluation_id in (evaluation.id, str(uuid.uuid4())):
        with pytest.raises(faults.NotFound) as caught:
            await stranger.stub(EvaluationServiceStub).GetEvaluation(
                pb.GetEvaluationRequest(evaluation_id=evaluation_id)
            )
        assert caught.value.reason == "EVALUATION_NOT_FOUND"
    with pytest.raises(faults.NotFound) as none:
        await stranger.stub(ComparisonServiceStub).GetComparison(
            comparison_service_pb2.GetComparisonRequest(comparison_id=str(uuid.uuid4()))
        )
    assert none.value.reason == "COMPARISON_NOT_FOUND"
    with pytest.raises(faults.NotFound) as experiment:
        await stranger.stub(EvaluationServiceStub).CreateEvaluation(
            pb.CreateEvaluationRequest(experiment_id=evaluation.experiment_id)
        )
    assert experiment.value.reason == "EXPERIMENT_NOT_FOUND"


async def test_the_service_itself_never_imports_scipy() -> None:
    code = (
        "import sys, services.governance.experiments.__main__; print('scipy' in sys.modules or 'numpy' in sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    said, _ = await output(process)
    assert said.strip() == b"False"
