"""What the edge refuses beyond the rules of the protos, and what it brings to one form."""

import uuid
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from services.kit import faults, validation
from tests.patience import eventually
from tests.suite import Person, Suite
from triptych.audit.v1.audit_service_pb2 import ListEventsRequest
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.auth.v1.invitation_service_pb2 import CreateInvitationRequest
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1.experiment_pb2 import Experiment
from triptych.experiments.v1.experiment_service_pb2 import CreateExperimentRequest
from triptych.projects.v1 import baseline_pb2, project_service_pb2 as pb
from triptych.projects.v1.baseline_service_pb2 import CreateBaselineRequest
from triptych.projects.v1.baseline_service_pb2_grpc import BaselineServiceStub
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub
from triptych.providers.v1.usage_pb2 import UsageRecord
from triptych.providers.v1.usage_service_pb2 import RecordUsageRequest


def nested(levels: int) -> Struct:
    """An object in an object in an object."""
    value: Any = {"end": True}
    for _ in range(levels):
        value = {"in": value}
    made = Struct()
    made.update(value)
    return made


def test_ids_have_one_form_at_any_depth() -> None:
    given = str(uuid.uuid4()).upper()
    top = pb.GetProjectRequest(project_id=given)
    validation.check(top)
    assert top.project_id == given.lower()
    spec = Experiment(project_id=given, dataset_id=given, name="n")
    spec.configuration["a"] = 1
    inner = CreateExperimentRequest(experiment=spec)
    validation.check(inner)
    assert inner.experiment.dataset_id == given.lower()
    records = [UsageRecord(id=given, provider_id=given, operation="review") for _ in range(3)]
    many = RecordUsageRequest(records=records)
    validation.check(many)
    assert {name for record in many.records for name in (record.id, record.provider_id)} == {given.lower()}


@pytest.mark.parametrize(("seconds", "nanos"), [(-(10**12), 0), (10**12, 0), (0, -5), (0, 10**9)])
def test_a_time_that_no_date_has_is_a_violation(seconds: int, nanos: int) -> None:
    request = CreateInvitationRequest()
    request.invitation.role = Role.ROLE_USER
    request.invitation.expire_time.seconds = seconds
    request.invitation.expire_time.nanos = nanos
    with pytest.raises(faults.RequestInvalid) as caught:
        validation.check(request)
    assert set(caught.value.violations) == {"invitation.expire_time"}


def test_json_may_nest_sixteen_levels() -> None:
    validation.check(pb.CreateProjectRequest(project=Project(name="n", settings=nested(validation.DEEPEST - 1))))
    with pytest.raises(faults.RequestInvalid) as caught:
        validation.check(pb.CreateProjectRequest(project=Project(name="n", settings=nested(validation.DEEPEST))))
    assert set(caught.value.violations) == {"project.settings"}


@pytest.fixture
async def admin(suite: Suite) -> Person:
    await suite.start("projects", "audit")
    return suite.person(Role.ROLE_ADMIN)


async def test_the_deepest_json_reaches_the_log_and_can_be_read_there(admin: Person) -> None:
    request = pb.CreateProjectRequest(project=Project(name="deep", settings=nested(validation.DEEPEST - 1)))
    await admin.stub(ProjectServiceStub).CreateProject(request)
    await admin.stub(ProjectServiceStub).CreateProject(pb.CreateProjectRequest(project=Project(name="after")))
    audit = admin.stub(AuditServiceStub)
    await eventually(lambda: audit.ListEvents(ListEventsRequest()), lambda page: len(page.entries) == 2)


async def test_what_is_too_deep_or_too_large_is_refused(admin: Person) -> None:
    projects = admin.stub(ProjectServiceStub)
    large = Project(name="large")
    large.settings["text"] = "x" * 20_000
    for project in (Project(name="deep", settings=nested(20)), large):
        with pytest.raises(faults.InvalidArgument):
            await projects.CreateProject(pb.CreateProjectRequest(project=project))


async def test_an_id_that_is_none_in_a_shared_message_is_a_violation(admin: Person) -> None:
    for given in ("", "zz"):
        baseline = baseline_pb2.Baseline(
            project_id=given, metric_key="accuracy", operator=baseline_pb2.BASELINE_OPERATOR_AT_LEAST, threshold=0.5
        )
        with pytest.raises(faults.InvalidArgument) as caught:
            await admin.stub(BaselineServiceStub).CreateBaseline(CreateBaselineRequest(baseline=baseline))
        assert "baseline.project_id" in caught.value.violations


async def test_a_large_mistake_keeps_its_status(admin: Person) -> None:
    project = (
        await admin.stub(ProjectServiceStub).CreateProject(pb.CreateProjectRequest(project=Project(name="p")))
    ).project
    request = pb.UpdateProjectRequest(project=Project(id=project.id))
    request.update_mask.paths.append("x" * 20_000)
    with pytest.raises(faults.InvalidArgument) as caught:
        await admin.stub(ProjectServiceStub).UpdateProject(request)
    assert caught.value.reason == "UPDATE_MASK_INVALID"
