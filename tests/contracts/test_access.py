"""Each RPC says who may call it, what it records and how long it may take."""

import re

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from services.cli.stack import topology
from services.kit import access
from tests.contracts import protos
from triptych.common.v1 import options_pb2
from triptych.common.v1.role_pb2 import Role

METHODS = [pytest.param(method, id=method.full_name.removeprefix("triptych.")) for method in protos.methods()]
WITHOUT_REQUEST_ID = {
    "triptych.auth.v1.AuthService.Login": "a second login is a second session, and its answer holds secrets",
    "triptych.auth.v1.AuthService.Refresh": "the refresh token itself makes a retry safe",
    "triptych.auth.v1.AuthService.CompleteLogin": "the ticket is good once, and the answer holds secrets",
    "triptych.auth.v1.AuthService.BeginPasskeyLogin": "a challenge more does no harm",
    "triptych.auth.v1.AuthService.FinishPasskeyLogin": "the challenge is good once, and the answer holds secrets",
    "triptych.auth.v1.AuthService.Reauthenticate": "doing it twice is doing it",
    "triptych.auth.v1.AuthService.SwitchTenant": "a second session is as good, and its answer holds secrets",
    "triptych.auth.v1.AuthService.RequestPasswordReset": "each mail replaces the one before, and five an hour are sent",
    "triptych.auth.v1.AuthService.ChangePassword": "the old password is gone, and the answer holds secrets",
    "triptych.auth.v1.AgentCredentialService.ExchangeAgentCredential": "a second token is as good, and it is a secret",
    "triptych.audit.v1.AuditService.AppendEvents": "the event ids make a retry safe",
    "triptych.audit.v1.SourceService.ReportSource": "it says what is so, and numbers only grow",
    "triptych.providers.v1.KeyService.ResolveKey": "it changes nothing but the audit log",
    "triptych.production.v1.AnalysisTaskService.RenewLease": "renewing twice is renewing",
    "triptych.production.v1.ArtifactService.UploadArtifact": "it stands in the header of the stream",
}


def rule(method: MethodDescriptor) -> options_pb2.Access:
    return method.GetOptions().Extensions[options_pb2.access]


def reads(method: MethodDescriptor) -> bool:
    return method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS


def test_every_method_has_a_rule_that_the_server_accepts() -> None:
    assert len(access.methods(protos.services())) == len(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_audience_is_known(method: MethodDescriptor) -> None:
    known = {"public", "user", "agent"} | {f"service:{service.name}" for service in topology.read().services}
    assert set(rule(method).audience) <= known
    assert ("public" in rule(method).audience) == (list(rule(method).audience) == ["public"])


@pytest.mark.parametrize("method", METHODS)
def test_who_is_not_anybody_needs_a_permission(method: MethodDescriptor) -> None:
    if "public" in rule(method).audience:
        assert rule(method).permission == ""
    else:
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", rule(method).permission)


@pytest.mark.parametrize("method", METHODS)
def test_a_person_needs_a_role(method: MethodDescriptor) -> None:
    assert ("user" in rule(method).audience) == (rule(method).role != Role.ROLE_UNSPECIFIED)


@pytest.mark.parametrize("method", METHODS)
def test_a_change_is_audited_and_a_read_is_not(method: MethodDescriptor) -> None:
    audit = rule(method).audit
    if reads(method):
        assert audit.startswith("none: ")
    else:
        assert audit.startswith("none: ") or re.fullmatch(r"[a-z_]+(\.[a-z_]+){2}", audit)


@pytest.mark.parametrize("method", METHODS)
def test_a_change_can_be_repeated_safely(method: MethodDescriptor) -> None:
    if not reads(method) and method.full_name not in WITHOUT_REQUEST_ID:
        assert "request_id" in method.input_type.fields_by_name


@pytest.mark.parametrize("method", METHODS)
def test_the_deadline_is_positive_and_bounded(method: MethodDescriptor) -> None:
    assert 0 < rule(method).deadline.ToTimedelta().total_seconds() <= 600


def test_actions_are_unique_so_that_the_log_tells_them_apart() -> None:
    actions = [rule(method).audit for method in protos.methods() if not rule(method).audit.startswith("none: ")]
    assert len(actions) == len(set(actions))
