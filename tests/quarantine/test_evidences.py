"""Evidence, seals, cool-downs and settings: rules without input or output."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from services.governance.quarantine import evaluations, evidences, seals
from services.governance.quarantine.cool_downs import CoolDowns
from services.governance.quarantine.settings import QuarantineSettings
from services.kit.faults import RequestInvalid
from services.kit.settings import SettingsInvalid
from tests.quarantine.builders import quarantine_request, struct
from triptych.experiments.v1.evaluation_pb2 import Evaluation, Verdict
from triptych.quarantine.v1.quarantine_pb2 import QuarantineReason

VALUES = {
    "service": "quarantine",
    "database_url": "postgresql://app@localhost/triptych",
    "database_password_file": "/dev/null",
    "vault_url": "http://localhost",
    "vault_role_id_file": "/dev/null",
    "vault_secret_id_file": "/dev/null",
}
RECORD: dict[str, Any] = dict.fromkeys(seals.FIELDS, "text") | {
    "id": uuid.UUID(int=1),
    "position": 1,
    "configuration": {"b": 1, "a": [1.5, None]},
    "experiment_id": None,
    "quarantine_time": datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
}


@pytest.mark.parametrize("value", [None, "", [], {}, [None, ""], {"deep": {"deeper": [{}]}}])
def test_evidence_that_says_nothing_is_refused(value: object) -> None:
    with pytest.raises(evidences.EvidenceEmpty):
        evidences.read(struct(metrics=value))


@pytest.mark.parametrize("value", [0, False, 0.5, "text", [1]])
def test_a_single_value_is_evidence(value: object) -> None:
    assert evidences.read(struct(metrics=value)) == {"metrics": value}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**60, "a\0b"])
def test_evidence_without_a_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(RequestInvalid) as caught:
        evidences.read(struct(metrics=value))
    assert "evidence" in caught.value.violations


def test_evidence_may_have_256_kib() -> None:
    frame = len(b'{"log":""}')
    evidences.read(struct(log="x" * (evidences.LARGEST - frame)))
    with pytest.raises(RequestInvalid):
        evidences.read(struct(log="x" * (evidences.LARGEST - frame + 1)))


def test_a_seal_is_of_meaning_and_not_of_order() -> None:
    again = dict(reversed(list(RECORD.items()))) | {"configuration": {"a": [1.5, None], "b": 1.0}}
    assert seals.of(RECORD, seals.GENESIS) == seals.of(again, seals.GENESIS)


def test_a_seal_changes_with_every_field_and_with_the_one_before() -> None:
    sealed = seals.of(RECORD, seals.GENESIS)
    others = {seals.of(RECORD | {name: "another"}, seals.GENESIS) for name in seals.FIELDS}
    others.add(seals.of(RECORD, "1" * 64))
    assert sealed not in others
    assert len(others) == len(seals.FIELDS) + 1


@pytest.mark.parametrize("word", ["REGRESSION", "FAILED_GATE", "COST"])
def test_cool_downs_are_thirty_days_unless_the_request_says_otherwise(word: str) -> None:
    cool_downs = CoolDowns(QuarantineSettings.of(VALUES))
    request = quarantine_request("", reason=QuarantineReason.Value(f"QUARANTINE_REASON_{word}"))
    request.ClearField("cool_down")
    assert cool_downs.of(request) == timedelta(days=30)
    request.cool_down.CopyFrom(Duration(seconds=0))
    assert cool_downs.of(request) == timedelta(0)
    shorter = CoolDowns(QuarantineSettings.of(VALUES | {f"{word.lower()}_cool_down_days": "7"}))
    request.ClearField("cool_down")
    assert shorter.of(request) == timedelta(days=7)


def test_a_security_failure_is_permanent_whatever_the_request_says() -> None:
    request = quarantine_request("", reason=QuarantineReason.QUARANTINE_REASON_SECURITY)
    assert CoolDowns(QuarantineSettings.of(VALUES)).of(request) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"profile": "production", "crash_after": "quarantine.approved"},
        {"profile": "development", "crash_after": "quarantine.guessed"},
        {"regression_cool_down_days": -1},
        {"resume_seconds": 0.0},
    ],
)
def test_settings_that_must_not_start(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsInvalid):
        QuarantineSettings.of(VALUES | changes)


def test_development_may_crash_on_purpose() -> None:
    settings = QuarantineSettings.of(VALUES | {"profile": "development", "crash_after": "quarantine.approved"})
    assert settings.crash_after == "quarantine.approved"


def test_an_evaluation_of_the_moment_of_the_approval_is_not_new() -> None:
    approved = datetime(2026, 1, 2, tzinfo=UTC)
    evaluation = Evaluation(configuration_hash="a")
    evaluation.create_time.FromDatetime(approved)
    with pytest.raises(evaluations.EvaluationNotNew):
        evaluations.check(evaluation, "a", approved=approved)
    evaluations.check(evaluation, "a", approved=approved - timedelta(microseconds=1))
    with pytest.raises(evaluations.EvaluationOfAnother):
        evaluations.check(evaluation, "b", approved=approved - timedelta(days=1))


@pytest.mark.parametrize("verdict", [Verdict.VERDICT_UNSPECIFIED, Verdict.VERDICT_FAIL, Verdict.VERDICT_MANUAL_REVIEW])
def test_only_a_pass_releases(verdict: "Verdict.ValueType") -> None:
    assert not evaluations.passed(Evaluation(effective_verdict=verdict))
    assert evaluations.passed(Evaluation(effective_verdict=Verdict.VERDICT_PASS))
