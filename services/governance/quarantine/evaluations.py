"""Evaluations, as evidence that ends a re-evaluation: new, and of the sealed configuration. Pure."""

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from services.governance.quarantine.words import VERDICTS
from services.kit.faults import FailedPrecondition
from triptych.experiments.v1.evaluation_pb2 import Evaluation, Verdict


class EvaluationNotNew(FailedPrecondition):
    """The evaluation is no new evidence."""


class EvaluationOfAnother(FailedPrecondition):
    """The evaluation judged another configuration."""


def check(evaluation: Evaluation, configuration_hash: str, *, approved: datetime) -> None:
    """Raise unless the evaluation judged this configuration after this moment."""
    if evaluation.configuration_hash != configuration_hash:
        raise EvaluationOfAnother(
            "the evaluation judged another configuration than the sealed one", configuration_hash=configuration_hash
        )
    moment = Timestamp()
    moment.FromDatetime(approved)
    made = evaluation.create_time
    if (made.seconds, made.nanos) <= (moment.seconds, moment.nanos):
        raise EvaluationNotNew(
            "the evaluation was made before the re-evaluation was approved; evaluate a new experiment",
            approved=moment.ToJsonString(),
        )


def passed(evaluation: Evaluation) -> bool:
    """Say whether it releases; whatever is no clear pass does not."""
    return evaluation.effective_verdict == Verdict.VERDICT_PASS


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """What decided it, to be kept here: the evaluation itself belongs to another service."""
    verdicts = {
        name: VERDICTS.word(getattr(evaluation, name)) for name in ("verdict", "override_verdict", "effective_verdict")
    }
    return verdicts | {
        "experiment_id": evaluation.experiment_id,
        "dataset_digest": evaluation.dataset_digest,
        "confidence": evaluation.confidence,
        "evaluation_time": evaluation.create_time.ToJsonString(),
        "overridden_by": evaluation.overridden_by,
    }
