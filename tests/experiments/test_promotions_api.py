"""PromotionService over the wire, with the real projects service: nobody goes it alone."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from services.kit import faults
from tests.experiments.stages import N, Stages, configuration
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1 import (
    evaluation_pb2,
    evaluation_service_pb2,
    experiment_pb2,
    experiment_service_pb2,
    promotion_pb2,
    promotion_service_pb2 as pb,
)
from triptych.experiments.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.experiments.v1.promotion_service_pb2_grpc import PromotionServiceStub
from triptych.projects.v1 import policy_service_pb2
from triptych.projects.v1.baseline_pb2 import BASELINE_OPERATOR_AT_MOST, Baseline
from triptych.projects.v1.policy_pb2 import POLICY_OUTCOME_ALLOW, Policy
from triptych.projects.v1.policy_service_pb2_grpc import PolicyServiceStub

ALLOW = """package triptych.allowing
import rego.v1
decision := {"allow": true, "deny": []}
"""
ACCURATE = """package triptych.accurate
import rego.v1
default decision := {"allow": false, "deny": [{"code": "ACCURACY", "msg": "not accurate enough"}]}
decision := {"allow": true, "deny": []} if input.metrics.candidate.accuracy >= 0.99
"""


@pytest.fixture
async def stages(suite: Suite) -> Stages:
    return await Stages.open(suite)


@pytest.fixture
async def strict(suite: Suite, tmp_path: Path) -> AsyncIterator[Stages]:
    """The same services once more, where two people must approve."""
    other = Suite(suite.backends, suite.database, tmp_path)
    other.issuer = suite.issuer
    await other.start("projects")
    await other.start("experiments", required_approvals=2)
    yield await Stages.open(other)
    await other.stop()


async def attach(stages: Stages, rego: str) -> None:
    policies = stages.author.stub(PolicyServiceStub)
    policy = Policy(name=f"p-{uuid.uuid4().hex[:12]}", rego=rego)
    created = (await policies.CreatePolicy(policy_service_pb2.CreatePolicyRequest(policy=policy))).policy
    await policies.AttachPolicy(
        policy_service_pb2.AttachPolicyRequest(project_id=stages.project_id, policy_id=created.id)
    )


async def experiment(stages: Stages, promotion: promotion_pb2.Promotion) -> experiment_pb2.Experiment:
    request = experiment_service_pb2.GetExperimentRequest(experiment_id=promotion.experiment_id)
    return (await stages.author.stub(ExperimentServiceStub).GetExperiment(request)).experiment


async def test_what_a_second_person_approves_is_in_production(stages: Stages) -> None:
    promotion = await stages.ask(await stages.evaluate(N))
    assert promotion.state == promotion_pb2.PROMOTION_STATE_PENDING
    assert (promotion.requested_by, promotion.to_version_id) == (stages.author.id, "")
    completed = await stages.approve(promotion)
    assert completed.state == promotion_pb2.PROMOTION_STATE_COMPLETED
    assert completed.HasField("promote_time")
    (approval,) = completed.approvals
    assert (approval.approver_id, approval.approve) == (stages.reviewer.id, True)
    assert await stages.production() == promotion.from_version_id
    assert (await experiment(stages, promotion)).state == experiment_pb2.EXPERIMENT_STATE_PROMOTED
    second = await stages.ask(await stages.evaluate(N, production=N))
    assert second.to_version_id == promotion.from_version_id
    assert (await stages.approve(second)).state == promotion_pb2.PROMOTION_STATE_COMPLETED
    assert await stages.production() == second.from_version_id
    stub = stages.author.stub(PromotionServiceStub)
    listed = (await stub.ListPromotions(pb.ListPromotionsRequest(project_id=stages.project_id))).promotions
    assert [found.id for found in listed] == [second.id, promotion.id]
    assert len(listed[1].approvals) == 1


async def test_nobody_approves_what_they_asked_for(stages: Stages) -> None:
    promotion = await stages.ask()
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.approve(promotion, stages.author)
    assert caught.value.reason == "SELF_APPROVAL"


async def test_nobody_approves_what_they_let_pass(stages: Stages) -> None:
    evaluation = await stages.evaluate(87)
    request = evaluation_service_pb2.OverrideEvaluationRequest(
        evaluation_id=evaluation.id, verdict=evaluation_pb2.VERDICT_PASS, reason="looked at every item"
    )
    await stages.reviewer.stub(EvaluationServiceStub).OverrideEvaluation(request)
    promotion = await stages.ask(evaluation)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.approve(promotion)
    assert caught.value.reason == "SELF_APPROVAL"
    third = stages.author.colleague(Role.ROLE_ADMIN)
    assert (await stages.approve(promotion, third)).state == promotion_pb2.PROMOTION_STATE_COMPLETED


async def test_only_a_pass_is_promoted(stages: Stages) -> None:
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.ask(await stages.evaluate(87))
    assert caught.value.reason == "EVALUATION_NOT_PASSED"
    assert caught.value.facts == {"verdict": "manual_review", "gates": "accuracy"}


async def test_one_promotion_into_a_project_is_open(stages: Stages) -> None:
    first, second = await stages.write_evaluation(), await stages.write_evaluation()
    promotion = await stages.ask(first)
    with pytest.raises(faults.AlreadyExists) as caught:
        await stages.ask(second)
    assert caught.value.reason == "PROMOTION_OPEN"
    stub = stages.author.stub(PromotionServiceStub)
    request = pb.RejectPromotionRequest(promotion_id=promotion.id, reason="withdrawn")
    rejected = (await stub.RejectPromotion(request)).promotion
    assert (rejected.state, rejected.reject_reason) == (promotion_pb2.PROMOTION_STATE_REJECTED, "withdrawn")
    assert (await stages.ask(second)).state == promotion_pb2.PROMOTION_STATE_PENDING


async def test_what_was_rejected_is_not_approved_and_not_rejected_again(stages: Stages) -> None:
    promotion = await stages.ask()
    stub = stages.reviewer.stub(PromotionServiceStub)
    request = pb.RejectPromotionRequest(promotion_id=promotion.id, reason="no")
    (objection,) = (await stub.RejectPromotion(request)).promotion.approvals
    assert not objection.approve
    for attempt in (stages.approve(promotion, stages.author.colleague(Role.ROLE_ADMIN)), stub.RejectPromotion(request)):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await attempt
        assert (caught.value.reason, caught.value.facts) == ("PROMOTION_STATE_CONFLICT", {"state": "rejected"})


async def test_an_approval_is_of_what_the_approver_saw(stages: Stages) -> None:
    promotion = await stages.ask()
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.approve(promotion, subject_digest="0" * 64)
    assert (caught.value.reason, caught.value.facts) == ("SUBJECT_CHANGED", {"changed": "promotion"})


async def test_baselines_that_change_void_what_was_asked_for(stages: Stages) -> None:
    evaluation = await stages.write_evaluation()
    promotion = await stages.ask(evaluation)
    await stages.demand(
        Baseline(
            project_id=stages.project_id, metric_key="error_rate", operator=BASELINE_OPERATOR_AT_MOST, threshold=0.1
        )
    )
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.approve(promotion)
    assert (caught.value.reason, caught.value.facts) == ("SUBJECT_CHANGED", {"changed": "baselines"})
    request = pb.RejectPromotionRequest(promotion_id=promotion.id, reason="ask again")
    await stages.author.stub(PromotionServiceStub).RejectPromotion(request)
    with pytest.raises(faults.FailedPrecondition) as outdated:
        await stages.ask(evaluation)
    assert (outdated.value.reason, outdated.value.facts) == ("EVALUATION_OUTDATED", {"changed": "baselines"})


async def test_policies_that_change_void_what_was_asked_for(stages: Stages) -> None:
    await attach(stages, ALLOW)
    promotion = await stages.ask()
    (decision,) = promotion.policy_decisions
    assert decision.outcome == POLICY_OUTCOME_ALLOW
    await attach(stages, ALLOW.replace("allowing", "also"))
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.approve(promotion)
    assert (caught.value.reason, caught.value.facts) == ("SUBJECT_CHANGED", {"changed": "policies"})


async def test_a_policy_refuses_what_all_gates_let_pass(stages: Stages) -> None:
    await attach(stages, ACCURATE)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.ask(await stages.evaluate(97))
    assert caught.value.reason == "POLICY_REFUSED"
    assert (caught.value.facts["outcome"], caught.value.facts["codes"]) == ("deny", "ACCURACY")
    assert (await stages.ask(await stages.evaluate(N))).state == promotion_pb2.PROMOTION_STATE_PENDING


async def test_a_policy_that_says_nothing_stays_shut(stages: Stages) -> None:
    await attach(
        stages, 'package triptych.silent\nimport rego.v1\ndecision := {"allow": true, "deny": []} if input.nothing\n'
    )
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.ask()
    assert (caught.value.reason, caught.value.facts["outcome"]) == ("POLICY_REFUSED", "undefined")


async def test_an_evaluation_against_yesterdays_production_carries_nothing(stages: Stages) -> None:
    stale, waiting = await stages.write_evaluation(), await stages.write_evaluation()
    await stages.approve(await stages.ask(stale))
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.ask(waiting)
    assert (caught.value.reason, caught.value.facts) == ("EVALUATION_OUTDATED", {"changed": "production"})


async def test_what_is_promoted_is_not_promoted_again(stages: Stages) -> None:
    evaluation = await stages.write_evaluation()
    await stages.approve(await stages.ask(evaluation))
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.ask(evaluation)
    assert caught.value.reason == "EXPERIMENT_STATE_CONFLICT"


async def test_the_same_request_ids_give_the_same_answers(stages: Stages) -> None:
    stub = stages.author.stub(PromotionServiceStub)
    request = pb.RequestPromotionRequest(
        evaluation_id=(await stages.write_evaluation()).id, reason="better", request_id=str(uuid.uuid4())
    )
    first, second = await stub.RequestPromotion(request), await stub.RequestPromotion(request)
    assert first == second
    approval = str(uuid.uuid4())
    done = await stages.approve(first.promotion, request_id=approval)
    assert done.state == promotion_pb2.PROMOTION_STATE_COMPLETED
    assert await stages.approve(first.promotion, request_id=approval) == done


async def test_two_people_at_once_complete_it_once_and_one_person_is_not_two(strict: Stages) -> None:
    promotion = await strict.ask()
    assert promotion.required_approvals == 2
    assert (await strict.approve(promotion)).state == promotion_pb2.PROMOTION_STATE_PENDING
    with pytest.raises(faults.AlreadyExists) as caught:
        await strict.approve(promotion)
    assert caught.value.reason == "APPROVAL_EXISTS"
    people = [strict.author.colleague(Role.ROLE_ADMIN) for _ in range(3)]
    ends = await asyncio.gather(*(strict.approve(promotion, person) for person in people), return_exceptions=True)
    late = [end for end in ends if isinstance(end, faults.FailedPrecondition)]
    assert len(late) == 2
    assert {fault.reason for fault in late} == {"PROMOTION_STATE_CONFLICT"}
    assert await strict.production() == promotion.from_version_id


async def test_of_two_approvers_at_once_one_makes_it_two(strict: Stages) -> None:
    promotion = await strict.ask()
    people = [strict.author.colleague(Role.ROLE_ADMIN) for _ in range(2)]
    ends = await asyncio.gather(*(strict.approve(promotion, person) for person in people))
    states = sorted(end.state for end in ends)
    assert states in (
        [promotion_pb2.PROMOTION_STATE_PENDING, promotion_pb2.PROMOTION_STATE_COMPLETED],
        [promotion_pb2.PROMOTION_STATE_COMPLETED, promotion_pb2.PROMOTION_STATE_COMPLETED],
    )
    request = pb.GetPromotionRequest(promotion_id=promotion.id)
    found = (await strict.author.stub(PromotionServiceStub).GetPromotion(request)).promotion
    assert found.state == promotion_pb2.PROMOTION_STATE_COMPLETED
    assert len(found.approvals) == 2


async def test_an_old_evaluation_carries_nothing(suite: Suite, tmp_path: Path) -> None:
    other = Suite(suite.backends, suite.database, tmp_path)
    other.issuer = suite.issuer
    await other.start("projects")
    await other.start("experiments", evaluation_days=0)
    try:
        stages = await Stages.open(other)
        with pytest.raises(faults.FailedPrecondition) as caught:
            await stages.ask()
        assert (caught.value.reason, caught.value.facts) == ("EVALUATION_OUTDATED", {"changed": "age"})
    finally:
        await other.stop()


async def test_another_tenants_promotion_looks_like_none(stages: Stages, suite: Suite) -> None:
    promotion = await stages.ask()
    stranger = suite.person(Role.ROLE_ADMIN)
    for promotion_id in (promotion.id, str(uuid.uuid4())):
        for attempt in (
            stranger.stub(PromotionServiceStub).GetPromotion(pb.GetPromotionRequest(promotion_id=promotion_id)),
            stages.approve(promotion, stranger, promotion_id=promotion_id),
            stranger.stub(PromotionServiceStub).RejectPromotion(
                pb.RejectPromotionRequest(promotion_id=promotion_id, reason="r")
            ),
        ):
            with pytest.raises(faults.NotFound) as caught:
                await attempt
            assert caught.value.reason == "PROMOTION_NOT_FOUND"
    with pytest.raises(faults.PermissionDenied):
        await stages.approve(promotion, stages.author.colleague(Role.ROLE_USER))


async def test_the_hash_is_of_behaviour_and_its_spelling_does_not_matter(stages: Stages) -> None:
    one = await stages.create(configuration(depth=1.0, model="caf\u00e9"))
    two = await stages.create(configuration(model="cafe\u0301", depth=1))
    assert one.configuration_hash == two.configuration_hash


async def test_each_step_leaves_an_event_with_its_actor(stages: Stages, superuser: asyncpg.Connection) -> None:
    await stages.approve(await stages.ask(await stages.evaluate(N)))
    rows = await superuser.fetch(
        "SELECT action, actor_kind, actor_id FROM experiments.outbox WHERE tenant_id = $1 ORDER BY event_id",
        stages.author.tenant_id,
    )
    author, reviewer = ("user", stages.author.id), ("user", stages.reviewer.id)
    assert [(row["action"].removeprefix("experiments."), (row["actor_kind"], row["actor_id"])) for row in rows] == [
        ("dataset.create", author),
        ("experiment.create", author),
        ("experiment.start", author),
        ("results.record", author),
        ("experiment.complete", author),
        ("evaluation.create", author),
        ("promotion.request", author),
        ("promotion.approve", reviewer),
        ("promotion.complete", ("service", "experiments")),
    ]
