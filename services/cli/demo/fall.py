"""Steps 8 and 9: production regresses, is sealed away, and is looked at once more."""

from google.protobuf.duration_pb2 import Duration

from services.cli.demo import configurations, trials
from services.cli.demo.stage import Stage, struct
from triptych.experiments.v1.evaluation_pb2 import Verdict
from triptych.experiments.v1.evaluation_service_pb2 import OverrideEvaluationRequest
from triptych.experiments.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from triptych.experiments.v1.experiment_pb2 import Experiment
from triptych.experiments.v1.experiment_service_pb2 import CreateExperimentRequest
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.experiments.v1.promotion_service_pb2 import RequestPromotionRequest
from triptych.experiments.v1.promotion_service_pb2_grpc import PromotionServiceStub
from triptych.projects.v1.version_pb2 import VersionTag
from triptych.projects.v1.version_service_pb2 import GetVersionRequest
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub
from triptych.quarantine.v1 import quarantine_service_pb2, reevaluation_service_pb2
from triptych.quarantine.v1.quarantine_pb2 import QuarantineReason, QuarantineRecord, QuarantineRequestState
from triptych.quarantine.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from triptych.quarantine.v1.reevaluation_pb2 import ReevaluationOutcome
from triptych.quarantine.v1.reevaluation_service_pb2_grpc import ReevaluationServiceStub


async def production_regresses(stage: Stage) -> QuarantineRecord:
    """Step 8: a worse configuration gets in on thin evidence, and is sealed away when the whole corpus shows it."""
    tell = stage.narrator
    tell.begin(8, "A later change regresses and is sealed in quarantine")
    await _let_in_on_thin_evidence(stage)
    tell.say("Weeks later the whole corpus is run again: the last good configuration against what is in production.")
    check = await trials.run(stage, "check of production", "corpus", configurations.CANDIDATE, configurations.LATER)
    await trials.judge(stage, check)
    report = await trials.compare(stage, check)
    tell.check(report.lower_bound > 0, "production should be worse than the last good configuration")
    return await _seal(stage, check, struct({
        "comparison_id": report.id,
        "difference": f"{report.difference:.4f}",
        "lower_bound": f"{report.lower_bound:.4f}",
        "only_last_good_correct": report.pairs.only_candidate_correct,
        "only_production_correct": report.pairs.only_production_correct,
    }))  # fmt: skip


async def it_is_looked_at_again(stage: Stage, record: QuarantineRecord) -> None:
    """Step 9: a re-evaluation, asked for by one, approved by another, ended by a new evaluation."""
    tell = stage.narrator
    tell.begin(9, "The sealed configuration gets one more look")
    ada, grace = (stage.cast[name].client.stub(ReevaluationServiceStub) for name in ("Ada", "Grace"))
    asked = await ada.RequestReevaluation(
        reevaluation_service_pb2.RequestReevaluationRequest(
            record_id=record.id,
            reason="The whole corpus was never run as its own experiment.",
            evidence=struct({"dataset": stage.datasets["corpus"], "items": len(stage.items)}),
        )
    )
    reevaluation = asked.reevaluation
    tell.call(
        "Ada", "ReevaluationService.RequestReevaluation", f"attempt {reevaluation.attempt} of 5: {reevaluation.id}"
    )
    await grace.ApproveReevaluation(
        reevaluation_service_pb2.ApproveReevaluationRequest(reevaluation_id=reevaluation.id, reason="A fair question.")
    )
    tell.call(
        "Grace", "ReevaluationService.ApproveReevaluation", "one experiment with the sealed configuration is allowed"
    )
    again = await trials.run(
        stage, "once more", "corpus", configurations.LATER, configurations.CANDIDATE,
        reevaluation_id=reevaluation.id,
    )  # fmt: skip
    evaluation = await trials.judge(stage, again)
    ended = await ada.CompleteReevaluation(
        reevaluation_service_pb2.CompleteReevaluationRequest(
            reevaluation_id=reevaluation.id, evaluation_id=evaluation.id
        )
    )
    outcome = ended.reevaluation.outcome
    tell.call("Ada", "ReevaluationService.CompleteReevaluation", ReevaluationOutcome.Name(outcome))
    tell.check(
        outcome == ReevaluationOutcome.REEVALUATION_OUTCOME_UPHELD, "the new evidence should uphold the quarantine"
    )


async def _let_in_on_thin_evidence(stage: Stage) -> None:
    """Thirty items decide nothing; a person overrides, and two others carry it out."""
    tell = stage.narrator
    await trials.register(stage, "recent")
    experiment = await trials.run(stage, "ruff alone, faster", "recent", configurations.LATER, configurations.CANDIDATE)
    evaluation = await trials.judge(stage, experiment)
    tell.check(evaluation.verdict == Verdict.VERDICT_MANUAL_REVIEW, "thirty items should decide nothing")
    tell.say("Without a pass there is no promotion, and the author cannot override:")
    request = RequestPromotionRequest(evaluation_id=evaluation.id, reason="It is faster.")
    with stage.refused("EVALUATION_NOT_PASSED"):
        await stage.cast["Ada"].client.stub(PromotionServiceStub).RequestPromotion(request)
    reason = "The recent items are what we see every day; speed matters more."
    override = OverrideEvaluationRequest(evaluation_id=evaluation.id, verdict=Verdict.VERDICT_PASS, reason=reason)
    with stage.refused("OVERRIDE_BY_AUTHOR"):
        await stage.cast["Ada"].client.stub(EvaluationServiceStub).OverrideEvaluation(override)
    overridden = await stage.cast["Grace"].client.stub(EvaluationServiceStub).OverrideEvaluation(override)
    tell.call("Grace", "EvaluationService.OverrideEvaluation", f"pass: {overridden.evaluation.override_reason}")
    promotion = await trials.ask(stage, overridden.evaluation, "It is faster.")
    stage.versions["ruff alone"] = promotion.from_version_id
    await trials.approve(stage, promotion, "Katherine")


async def _seal(stage: Stage, check: Experiment, evidence: object) -> QuarantineRecord:
    """Ask, approve by another, and see it sealed, blocked and production restored."""
    tell = stage.narrator
    ada, grace = (stage.cast[name].client.stub(QuarantineServiceStub) for name in ("Ada", "Grace"))
    asked = await ada.RequestQuarantine(
        quarantine_service_pb2.RequestQuarantineRequest(
            version_id=stage.versions["ruff alone"], experiment_id=check.id,
            reason=QuarantineReason.QUARANTINE_REASON_REGRESSION,
            explanation="It misses what the last good configuration caught.",
            evidence=evidence, cool_down=Duration(seconds=0),  # type: ignore[arg-type]
        )
    )  # fmt: skip
    tell.call("Ada", "QuarantineService.RequestQuarantine", f"request {asked.request.id}, cool-down 0 s for this demo")
    approval = quarantine_service_pb2.ApproveQuarantineRequest(
        quarantine_request_id=asked.request.id, reason="I have seen the numbers."
    )
    with stage.refused("SELF_APPROVAL"):
        await ada.ApproveQuarantine(approval)
    approval.request_id = ""
    done = (await grace.ApproveQuarantine(approval)).request
    tell.call("Grace", "QuarantineService.ApproveQuarantine", QuarantineRequestState.Name(done.state))
    tell.check(done.state == QuarantineRequestState.QUARANTINE_REQUEST_STATE_COMPLETED, "it should be completed")
    record = (await ada.GetRecord(quarantine_service_pb2.GetRecordRequest(record_id=done.record_id))).record
    tell.got(f"record {record.id} sealed with {record.seal}")
    tell.got(f"production went back to {trials.name_of(stage, done.restored_version_id)}")
    tell.check(done.restored_version_id == stage.versions["both analysers"], "the last good version should be back")
    version = (
        await stage.cast["Ada"]
        .client.stub(VersionServiceStub)
        .GetVersion(GetVersionRequest(version_id=stage.versions["ruff alone"]))
    )
    tell.check(version.version.tag == VersionTag.VERSION_TAG_V3, "the sealed version should be v3")
    await _come_back_in_disguise(stage)
    return record


async def _come_back_in_disguise(stage: Stage) -> None:
    """The same configuration, spelled otherwise, is still the same."""
    disguised = struct(dict(reversed(configurations.LATER.items())) | {"description": "brand new"})
    spec = Experiment(
        project_id=stage.project.id, dataset_id=stage.datasets["corpus"], name="brand new", configuration=disguised
    )
    stage.narrator.say("The same configuration again, keys in another order and with a new description:")
    with stage.refused("CONFIGURATION_BLACKLISTED"):
        await (
            stage.cast["Ada"]
            .client.stub(ExperimentServiceStub)
            .CreateExperiment(CreateExperimentRequest(experiment=spec))
        )
