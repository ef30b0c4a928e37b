"""AnalysisService over the wire."""

import asyncio
import uuid

import pytest

from services.kit import faults
from tests.production.builders import ANALYSIS, CONFIGURATION, TASK, Site, settle, spec, struct
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role
from triptych.production.v1 import analysis_service_pb2 as pb
from triptych.production.v1.analysis_pb2 import TaskType
from triptych.production.v1.analysis_service_pb2_grpc import AnalysisServiceStub
from triptych.projects.v1 import project_service_pb2, version_service_pb2
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub


async def test_an_analysis_is_pinned_to_what_is_in_production(site: Site) -> None:
    request = version_service_pb2.GetProductionVersionRequest(project_id=site.project_id)
    version = (await site.stub(VersionServiceStub).GetProductionVersion(request)).version
    analysis = await site.create(spec(), spec(TaskType.TASK_TYPE_GRAPH), metadata=struct({"commit": "abc"}))
    assert (analysis.version_id, analysis.configuration_hash) == (version.id, version.configuration_hash)
    assert (analysis.state, analysis.task_count, analysis.ended_task_count) == (ANALYSIS.ANALYSIS_STATE_QUEUED, 2, 0)
    assert analysis.user_id == site.user.id
    assert dict(analysis.metadata.items()) == {"commit": "abc"}
    assert await site.get(analysis.id) == analysis
    assert await site.events(f"analysis:{analysis.id}") == ["production.analysis.create"]
    [lease] = await site.lease(analysis.id)
    assert lease.configuration == struct(CONFIGURATION)


async def test_tasks_keep_the_order_in_which_they_were_given(site: Site) -> None:
    specs = [spec(input=struct({"n": n}), optional=n % 2 == 0, max_attempts=n % 4) for n in range(40)]
    tasks = await site.list_tasks((await site.create(*specs)).id)
    assert [task.input["n"] for task in tasks] == list(range(40))
    assert [task.optional for task in tasks] == [n % 2 == 0 for n in range(40)]
    assert [task.max_attempts for task in tasks] == [n % 4 or 3 for n in range(40)]
    assert {task.state for task in tasks} == {TASK.TASK_STATE_PENDING}


async def test_the_same_request_id_creates_one_analysis(site: Site) -> None:
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(*(site.create(request_id=request_id) for _ in range(5)))
    assert len({answer.id for answer in answers}) == 1
    with pytest.raises(faults.InvalidArgument) as caught:
        await site.create(spec(), spec(), request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_a_project_without_production_runs_nothing(site: Site) -> None:
    admin = site.user.colleague(Role.ROLE_ADMIN)
    request = project_service_pb2.CreateProjectRequest(project=Project(name="nothing yet"))
    created = await admin.stub(ProjectServiceStub).CreateProject(request)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await site.analyses.CreateAnalysis(pb.CreateAnalysisRequest(project_id=created.project.id, tasks=[spec()]))
    assert caught.value.reason == "PROJECT_WITHOUT_PRODUCTION"


async def test_an_archived_project_runs_nothing_new(site: Site) -> None:
    admin = site.user.colleague(Role.ROLE_ADMIN)
    request = project_service_pb2.ArchiveProjectRequest(project_id=site.project_id)
    await admin.stub(ProjectServiceStub).ArchiveProject(request)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await site.create()
    assert caught.value.reason == "PROJECT_ARCHIVED"


async def test_a_project_of_nobody_or_of_another_tenant_is_not_found(site: Site, suite: Suite) -> None:
    other = await settle(suite)
    for project_id in (other.project_id, str(uuid.uuid4())):
        with pytest.raises(faults.NotFound) as caught:
            await site.analyses.CreateAnalysis(pb.CreateAnalysisRequest(project_id=project_id, tasks=[spec()]))
        assert caught.value.reason == "PROJECT_NOT_FOUND"


@pytest.mark.parametrize(("field", "limit"), [("metadata", 16 * 1024), ("tasks[1].input", 64 * 1024)])
async def test_large_documents_are_refused_by_name(site: Site, field: str, limit: int) -> None:
    large = struct({"text": "x" * limit})
    request = pb.CreateAnalysisRequest(project_id=site.project_id, tasks=[spec(), spec()])
    (request.metadata if field == "metadata" else request.tasks[1].input).CopyFrom(large)
    with pytest.raises(faults.InvalidArgument) as caught:
        await site.analyses.CreateAnalysis(request)
    assert caught.value.reason == "DOCUMENT_TOO_LARGE"
    assert caught.value.facts == {"field": field, "limit": str(limit)}


async def test_analyses_are_listed_newest_first_in_pages_and_by_state(site: Site) -> None:
    made = [await site.create() for _ in range(5)]
    await site.analyses.CancelAnalysis(pb.CancelAnalysisRequest(analysis_id=made[1].id, reason="not needed"))
    request = pb.ListAnalysesRequest(project_id=site.project_id, page_size=2)
    seen: list[str] = []
    while True:
        answer = await site.analyses.ListAnalyses(request)
        seen += [analysis.id for analysis in answer.analyses]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert seen == [analysis.id for analysis in reversed(made)]
    cancelled = pb.ListAnalysesRequest(state=ANALYSIS.ANALYSIS_STATE_CANCELLED)
    assert [analysis.id for analysis in (await site.analyses.ListAnalyses(cancelled)).analyses] == [made[1].id]


async def test_pages_with_large_metadata_are_shorter_and_nothing_is_left_out(site: Site) -> None:
    large = struct({"text": "x" * 16_000})
    made = await asyncio.gather(*(site.create(metadata=large) for _ in range(40)))
    first = await site.analyses.ListAnalyses(pb.ListAnalysesRequest(page_size=200))
    assert len(first.analyses) < 40
    rest = await site.analyses.ListAnalyses(pb.ListAnalysesRequest(page_size=200, page_token=first.next_page_token))
    assert rest.next_page_token == ""
    assert {item.id for item in [*first.analyses, *rest.analyses]} == {analysis.id for analysis in made}


async def test_cancelling_skips_what_waits_and_kills_leases(site: Site) -> None:
    analysis = await site.create(spec(), spec(), spec())
    first, second = await site.lease(analysis.id, 2)
    await site.complete(first)
    request = pb.CancelAnalysisRequest(analysis_id=analysis.id, reason="wrong branch", request_id=str(uuid.uuid4()))
    cancelled = (await site.analyses.CancelAnalysis(request)).analysis
    assert cancelled.state == ANALYSIS.ANALYSIS_STATE_CANCELLED
    assert cancelled.error_message == "wrong branch"
    assert (cancelled.task_count, cancelled.ended_task_count) == (3, 3)
    states = [task.state for task in await site.list_tasks(analysis.id)]
    assert states == [TASK.TASK_STATE_COMPLETED, TASK.TASK_STATE_SKIPPED, TASK.TASK_STATE_SKIPPED]
    with pytest.raises(faults.FailedPrecondition) as lost:
        await site.complete(second)
    assert lost.value.reason == "LEASE_LOST"
    assert (await site.analyses.CancelAnalysis(request)).analysis == cancelled
    with pytest.raises(faults.FailedPrecondition) as again:
        await site.analyses.CancelAnalysis(pb.CancelAnalysisRequest(analysis_id=analysis.id, reason="again"))
    assert (again.value.reason, again.value.facts) == ("ANALYSIS_STATE_CONFLICT", {"state": "cancelled"})


async def test_another_tenants_analysis_looks_like_none(site: Site, suite: Suite) -> None:
    theirs = await site.create()
    stranger = suite.person(Role.ROLE_ADMIN).stub(AnalysisServiceStub)
    texts = []
    for analysis_id in (theirs.id, str(uuid.uuid4())):
        with pytest.raises(faults.NotFound) as caught:
            await stranger.GetAnalysis(pb.GetAnalysisRequest(analysis_id=analysis_id))
        texts.append((caught.value.text, caught.value.reason))
        with pytest.raises(faults.NotFound):
            await stranger.CancelAnalysis(pb.CancelAnalysisRequest(analysis_id=analysis_id, reason="x"))
    assert texts[0] == texts[1] == ("there is no such analysis", "ANALYSIS_NOT_FOUND")
    assert not (await stranger.ListAnalyses(pb.ListAnalysesRequest())).analyses


async def test_a_viewer_reads_and_does_not_create_or_cancel(site: Site) -> None:
    analysis = await site.create()
    viewer = site.user.colleague(Role.ROLE_VIEWER).stub(AnalysisServiceStub)
    await viewer.GetAnalysis(pb.GetAnalysisRequest(analysis_id=analysis.id))
    with pytest.raises(faults.PermissionDenied):
        await viewer.CreateAnalysis(pb.CreateAnalysisRequest(project_id=site.project_id, tasks=[spec()]))
    with pytest.raises(faults.PermissionDenied):
        await viewer.CancelAnalysis(pb.CancelAnalysisRequest(analysis_id=analysis.id, reason="x"))
