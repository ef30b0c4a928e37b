"""BaselineService over the wire."""

import asyncio
import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.kit import faults
from tests.projects.builders import archive, make_project
from tests.refusals import reason
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import baseline_service_pb2 as pb
from triptych.projects.v1.baseline_pb2 import Baseline, BaselineOperator
from triptych.projects.v1.baseline_service_pb2_grpc import BaselineServiceStub
from triptych.projects.v1.project_pb2 import Project


@pytest.fixture
async def project(admin: Person) -> Project:
    return await make_project(admin)


def _recall(project: Project, **more: Any) -> Baseline:
    operator = BaselineOperator.BASELINE_OPERATOR_NOT_INFERIOR
    return Baseline(project_id=project.id, metric_key="recall", operator=operator, margin=0.03, **more)


async def _revision(admin: Person, project: Project) -> str:
    request = pb.ListBaselinesRequest(project_id=project.id, page_size=1)
    return (await admin.stub(BaselineServiceStub).ListBaselines(request)).revision


async def test_a_baseline_is_stored_as_given(admin: Person, project: Project) -> None:
    request = pb.CreateBaselineRequest(baseline=_recall(project), request_id=str(uuid.uuid4()))
    made = (await admin.stub(BaselineServiceStub).CreateBaseline(request)).baseline
    assert (made.metric_key, made.margin, made.confidence, made.active) == ("recall", 0.03, 0.95, True)
    assert (await admin.stub(BaselineServiceStub).CreateBaseline(request)).baseline == made


async def test_one_active_baseline_per_metric_and_operator(admin: Person, project: Project) -> None:
    baselines = admin.stub(BaselineServiceStub)
    request = pb.CreateBaselineRequest(baseline=_recall(project))
    ends = await asyncio.gather(*(baselines.CreateBaseline(request) for _ in range(4)), return_exceptions=True)
    made = [end.baseline for end in ends if isinstance(end, pb.CreateBaselineResponse)]
    assert len(made) == 1
    assert [end.reason for end in ends if isinstance(end, faults.Fault)] == ["BASELINE_EXISTS"] * 3
    off = Baseline(id=made[0].id, active=False)
    await baselines.UpdateBaseline(pb.UpdateBaselineRequest(baseline=off, update_mask=FieldMask(paths=["active"])))
    await baselines.CreateBaseline(request)
    again = Baseline(id=made[0].id, active=True)
    assert await reason(baselines.UpdateBaseline(pb.UpdateBaselineRequest(baseline=again))) == "BASELINE_EXISTS"


async def test_the_revision_changes_with_each_active_baseline(admin: Person, project: Project) -> None:
    baselines = admin.stub(BaselineServiceStub)
    seen = [await _revision(admin, project)]
    made = (await baselines.CreateBaseline(pb.CreateBaselineRequest(baseline=_recall(project)))).baseline
    seen.append(await _revision(admin, project))
    changed = Baseline(id=made.id, margin=0.02, etag=made.etag)
    stored = (await baselines.UpdateBaseline(pb.UpdateBaselineRequest(baseline=changed))).baseline
    assert (stored.margin, stored.metric_key) == (0.02, "recall")
    seen.append(await _revision(admin, project))
    assert len(set(seen)) == 3
    off = pb.UpdateBaselineRequest(baseline=Baseline(id=made.id), update_mask=FieldMask(paths=["active"]))
    await baselines.UpdateBaseline(off)
    assert await _revision(admin, project) == seen[0]
    assert await reason(baselines.UpdateBaseline(pb.UpdateBaselineRequest(baseline=changed))) == "ETAG_MISMATCH"


async def test_baselines_are_listed_in_pages_by_metric(admin: Person, project: Project) -> None:
    baselines = admin.stub(BaselineServiceStub)
    made = (await baselines.CreateBaseline(pb.CreateBaselineRequest(baseline=_recall(project)))).baseline
    off = pb.UpdateBaselineRequest(baseline=Baseline(id=made.id), update_mask=FieldMask(paths=["active"]))
    await baselines.UpdateBaseline(off)
    for inactive, wanted in ((True, 6), (False, 5)):
        request = pb.ListBaselinesRequest(project_id=project.id, page_size=2, show_inactive=inactive)
        metrics = []
        while True:
            answer = await baselines.ListBaselines(request)
            metrics += [baseline.metric_key for baseline in answer.baselines]
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        assert metrics == sorted(metrics)
        assert len(metrics) == wanted


async def test_only_the_mask_can_be_changed_and_stays_in_shape(admin: Person, project: Project) -> None:
    baselines = admin.stub(BaselineServiceStub)
    made = (await baselines.CreateBaseline(pb.CreateBaselineRequest(baseline=_recall(project)))).baseline
    bad = pb.UpdateBaselineRequest(baseline=Baseline(id=made.id, confidence=0.5))
    assert await reason(baselines.UpdateBaseline(bad)) == "REQUEST_INVALID"
    mask = pb.UpdateBaselineRequest(baseline=Baseline(id=made.id), update_mask=FieldMask(paths=["metric_key"]))
    assert await reason(baselines.UpdateBaseline(mask)) == "UPDATE_MASK_INVALID"


async def test_an_archived_project_keeps_its_baselines(admin: Person, project: Project) -> None:
    baselines = admin.stub(BaselineServiceStub)
    made = (await baselines.CreateBaseline(pb.CreateBaselineRequest(baseline=_recall(project)))).baseline
    await archive(admin, project)
    change = pb.UpdateBaselineRequest(baseline=Baseline(id=made.id, margin=0.5))
    assert await reason(baselines.UpdateBaseline(change)) == "PROJECT_ARCHIVED"
    more = pb.CreateBaselineRequest(baseline=_recall(project))
    assert await reason(baselines.CreateBaseline(more)) == "PROJECT_ARCHIVED"


async def test_another_tenants_baselines_look_like_none(admin: Person, project: Project, suite: Suite) -> None:
    own = admin.stub(BaselineServiceStub)
    made = (await own.CreateBaseline(pb.CreateBaselineRequest(baseline=_recall(project)))).baseline
    baselines = suite.person(Role.ROLE_ADMIN).stub(BaselineServiceStub)
    change = pb.UpdateBaselineRequest(baseline=Baseline(id=made.id, margin=0.5))
    assert await reason(baselines.UpdateBaseline(change)) == "BASELINE_NOT_FOUND"
    listing = pb.ListBaselinesRequest(project_id=project.id)
    assert await reason(baselines.ListBaselines(listing)) == "PROJECT_NOT_FOUND"
    more = pb.CreateBaselineRequest(baseline=_recall(project))
    assert await reason(baselines.CreateBaseline(more)) == "PROJECT_NOT_FOUND"


async def test_experiments_reads_baselines_and_a_user_does_not(admin: Person, project: Project, suite: Suite) -> None:
    request = pb.ListBaselinesRequest(project_id=project.id)
    experiments = (await suite.service("experiments", admin.tenant_id)).stub(BaselineServiceStub)
    assert len((await experiments.ListBaselines(request)).baselines) == 5
    with pytest.raises(faults.PermissionDenied):
        await admin.colleague(Role.ROLE_USER).stub(BaselineServiceStub).ListBaselines(request)
