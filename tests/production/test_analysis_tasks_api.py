"""AnalysisTaskService over the wire: leases, results, failures, and workers that race."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from services.governance.production import sweeps
from services.kit import faults
from tests.production.builders import ANALYSIS, TASK, Site, spec, struct
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role
from triptych.production.v1 import (
    analysis_service_pb2,
    analysis_task_service_pb2 as pb,
    analysis_task_service_pb2_grpc,
)
from triptych.production.v1.analysis_pb2 import TaskType
from triptych.production.v1.analysis_task_pb2 import TaskLease
from triptych.production.v1.analysis_task_service_pb2_grpc import AnalysisTaskServiceStub


async def lost(site: Site, lease: TaskLease) -> None:
    """Whatever is tried with this lease, it is lost."""
    renewal = pb.RenewLeaseRequest(task_id=lease.task.id, fencing_token=lease.fencing_token)
    attempts: list[Awaitable[object]] = [site.complete(lease), site.fail(lease), site.tasks.RenewLease(renewal)]
    for attempt in attempts:
        with pytest.raises(faults.FailedPrecondition) as caught:
            await attempt
        assert caught.value.reason == "LEASE_LOST"
        assert caught.value.facts == {"fencing_token": str(lease.fencing_token)}


async def test_an_analysis_runs_with_its_first_lease_and_completes_with_its_last_result(site: Site) -> None:
    analysis = await site.create(spec(), spec(TaskType.TASK_TYPE_GRAPH, optional=True))
    first, second = await site.lease(analysis.id, 5, worker="w1")
    assert first.task.state == TASK.TASK_STATE_RUNNING
    assert (first.task.attempt, first.fencing_token, first.task.worker) == (1, 1, "w1")
    running = await site.get(analysis.id)
    assert running.state == ANALYSIS.ANALYSIS_STATE_RUNNING
    assert running.HasField("start_time")
    done = await site.complete(first, {"findings": 3})
    assert (done.state, done.result["findings"]) == (TASK.TASK_STATE_COMPLETED, 3)
    assert done.duration_ms >= 0
    halfway = await site.get(analysis.id)
    assert (halfway.state, halfway.ended_task_count) == (ANALYSIS.ANALYSIS_STATE_RUNNING, 1)
    assert halfway.etag != running.etag
    await site.complete(second)
    ended = await site.get(analysis.id)
    assert (ended.state, ended.ended_task_count) == (ANALYSIS.ANALYSIS_STATE_COMPLETED, 2)
    assert ended.HasField("finish_time")
    events = await site.events(f"analysis:{analysis.id}")
    assert events == ["production.analysis.create", "production.analysis.complete"]
    assert await site.events(f"task:{first.task.id}") == ["production.tasks.lease", "production.task.complete"]


async def test_leases_are_given_oldest_first_and_only_of_the_types_asked_for(site: Site) -> None:
    analysis = await site.create(spec(TaskType.TASK_TYPE_DYNAMIC), spec(input=struct({"n": 1})), spec())
    [only] = await site.lease(analysis.id)
    assert only.task.input["n"] == 1
    assert len(await site.lease(analysis.id, 50)) == 1
    assert await site.lease(analysis.id, 50) == []


async def test_a_lease_without_an_analysis_takes_any_of_the_tenant(site: Site, suite: Suite) -> None:
    made = [await site.create(), await site.create()]
    request = pb.LeaseTasksRequest(worker="w", types=[TaskType.TASK_TYPE_STATIC], max_tasks=50)
    stranger = suite.person(Role.ROLE_USER).stub(AnalysisTaskServiceStub)
    assert not (await stranger.LeaseTasks(request)).leases
    leases = (await site.tasks.LeaseTasks(request)).leases
    assert [lease.task.analysis_id for lease in leases] == [analysis.id for analysis in made]
    assert {(await site.get(analysis.id)).state for analysis in made} == {ANALYSIS.ANALYSIS_STATE_RUNNING}


async def test_a_replayed_lease_request_gives_the_same_leases(site: Site) -> None:
    analysis = await site.create(*[spec() for _ in range(4)])
    request_id = str(uuid.uuid4())
    first = await site.lease(analysis.id, 2, request_id=request_id)
    assert await site.lease(analysis.id, 2, request_id=request_id) == first
    states = [task.state for task in await site.list_tasks(analysis.id)]
    assert states.count(TASK.TASK_STATE_RUNNING) == 2


async def test_asking_again_and_again_where_nothing_waits_is_no_event(site: Site) -> None:
    request = pb.LeaseTasksRequest(worker="idle", types=[TaskType.TASK_TYPE_AI], request_id=str(uuid.uuid4()))
    assert not (await site.tasks.LeaseTasks(request)).leases
    assert not (await site.tasks.LeaseTasks(request)).leases


async def test_a_renewed_lease_ends_later(site: Site) -> None:
    analysis = await site.create()
    [lease] = await site.lease(analysis.id, lease_duration=Duration(seconds=5))
    request = pb.RenewLeaseRequest(
        task_id=lease.task.id, fencing_token=lease.fencing_token, lease_duration=Duration(seconds=600)
    )
    renewed = (await site.tasks.RenewLease(request)).lease
    assert renewed.fencing_token == lease.fencing_token
    later = renewed.expire_time.ToDatetime() - lease.expire_time.ToDatetime()
    assert later >= timedelta(seconds=595)
    assert not renewed.configuration.fields


async def test_a_stale_workers_result_is_lost(site: Site) -> None:
    analysis = await site.create()
    [stale] = await site.lease(analysis.id, worker="stale")
    await site.let_expire(stale)
    await lost(site, stale)
    [fresh] = await site.lease(analysis.id, worker="fresh")
    assert (fresh.task.id, fresh.fencing_token, fresh.task.attempt) == (stale.task.id, 2, 2)
    await lost(site, stale)
    done = await site.complete(fresh, {"by": "fresh"})
    assert (done.result["by"], done.worker) == ("fresh", "fresh")
    await lost(site, stale)
    await lost(site, fresh)


async def test_a_lease_is_its_callers_alone(site: Site) -> None:
    analysis = await site.create()
    [lease] = await site.lease(analysis.id)
    colleague = Site(site.suite, site.user.colleague(Role.ROLE_ADMIN), site.project_id)
    await lost(colleague, lease)
    await site.complete(lease)


async def test_a_result_handed_in_twice_is_one_result(site: Site) -> None:
    analysis = await site.create()
    [lease] = await site.lease(analysis.id)
    request = pb.CompleteTaskRequest(
        task_id=lease.task.id, fencing_token=1, result=struct({"n": 1}), request_id=str(uuid.uuid4())
    )
    first = await site.tasks.CompleteTask(request)
    assert await site.tasks.CompleteTask(request) == first


async def test_a_failed_try_waits_again_and_the_last_one_fails_the_analysis(site: Site) -> None:
    analysis = await site.create(spec(max_attempts=2), spec(), spec())
    [first] = await site.lease(analysis.id)
    again = await site.fail(first, "no memory")
    assert (again.state, again.error_message, again.attempt) == (TASK.TASK_STATE_PENDING, "no memory", 1)
    second, other = await site.lease(analysis.id, 2)
    assert (second.task.id, second.fencing_token) == (first.task.id, 2)
    failed = await site.fail(second, "no disk")
    assert (failed.state, failed.error_message) == (TASK.TASK_STATE_FAILED, "no disk")
    ended = await site.get(analysis.id)
    assert ended.state == ANALYSIS.ANALYSIS_STATE_FAILED
    assert ended.error_message == f"task {first.task.id} failed: no disk"
    states = [task.state for task in await site.list_tasks(analysis.id)]
    assert states == [TASK.TASK_STATE_FAILED, TASK.TASK_STATE_SKIPPED, TASK.TASK_STATE_SKIPPED]
    await lost(site, other)
    assert (await site.events(f"analysis:{analysis.id}"))[-1] == "production.analysis.fail"


async def test_an_optional_task_may_fail(site: Site) -> None:
    analysis = await site.create(spec(optional=True, max_attempts=1), spec())
    optional, required = await site.lease(analysis.id, 2)
    await site.fail(optional)
    assert (await site.get(analysis.id)).state == ANALYSIS.ANALYSIS_STATE_RUNNING
    await site.complete(required)
    assert (await site.get(analysis.id)).state == ANALYSIS.ANALYSIS_STATE_COMPLETED


async def test_the_sweep_takes_back_expired_leases_of_all_tenants(site: Site) -> None:
    analysis = await site.create(spec(max_attempts=2))
    db = site.suite.runtimes["production"].db
    [first] = await site.lease(analysis.id)
    await sweeps.expire_leases(db)
    assert (await site.list_tasks(analysis.id))[0].state == TASK.TASK_STATE_RUNNING
    await site.let_expire(first)
    await sweeps.expire_leases(db)
    [waiting] = await site.list_tasks(analysis.id)
    assert waiting.state == TASK.TASK_STATE_PENDING
    assert "lease ran out" in waiting.error_message
    await lost(site, first)
    [second] = await site.lease(analysis.id)
    await site.let_expire(second)
    assert await site.lease(analysis.id) == []
    await asyncio.gather(*(sweeps.expire_leases(db) for _ in range(3)))
    [exhausted] = await site.list_tasks(analysis.id)
    assert exhausted.state == TASK.TASK_STATE_FAILED
    assert (await site.get(analysis.id)).state == ANALYSIS.ANALYSIS_STATE_FAILED
    events = await site.events(f"task:{first.task.id}")
    assert events == ["production.tasks.lease", "production.task.expire"] * 2


async def test_twenty_workers_share_fifty_tasks_without_one_being_taken_twice(site: Site) -> None:
    analysis = await site.create(*[spec() for _ in range(50)])
    taken: list[TaskLease] = []

    async def work(name: str) -> None:
        while leases := await site.lease(analysis.id, 3, worker=name):
            taken.extend(leases)

    await asyncio.gather(*(work(f"worker-{n}") for n in range(20)))
    assert len(taken) == 50
    assert max(Counter(lease.task.id for lease in taken).values()) == 1
    assert {lease.fencing_token for lease in taken} == {1}
    await asyncio.gather(*(site.complete(lease) for lease in taken))
    ended = await site.get(analysis.id)
    assert (ended.state, ended.ended_task_count) == (ANALYSIS.ANALYSIS_STATE_COMPLETED, 50)
    assert (await site.events(f"analysis:{analysis.id}")).count("production.analysis.complete") == 1


async def test_the_work_of_a_dead_worker_is_done_once_by_another(site: Site) -> None:
    analysis = await site.create(*[spec() for _ in range(10)])
    dead = await site.lease(analysis.id, 4, worker="dead")
    await site.let_expire(*dead)
    db = site.suite.runtimes["production"].db
    results: list[str] = []

    async def work(name: str) -> None:
        while leases := await site.lease(analysis.id, 2, worker=name):
            for lease in leases:
                await site.complete(lease, {"by": name})
                results.append(lease.task.id)

    late = [site.complete(lease, {"by": "dead"}) for lease in dead]
    outcomes = await asyncio.gather(
        *(work(f"worker-{n}") for n in range(4)), sweeps.expire_leases(db), *late, return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes[5:]] == [faults.FailedPrecondition] * 4
    await work("last")  # what the sweep held back while the others looked
    assert len(results) == len(set(results)) == 10
    tasks = await site.list_tasks(analysis.id)
    assert {task.state for task in tasks} == {TASK.TASK_STATE_COMPLETED}
    assert "dead" not in {task.result["by"] for task in tasks}
    assert (await site.get(analysis.id)).state == ANALYSIS.ANALYSIS_STATE_COMPLETED


async def test_cancelling_while_workers_lease_and_complete_leaves_no_open_task(site: Site) -> None:
    for _ in range(5):
        analysis = await site.create(*[spec() for _ in range(10)])
        cancel = analysis_service_pb2.CancelAnalysisRequest(analysis_id=analysis.id, reason="race")
        held = await site.lease(analysis.id, 3)
        outcomes = await asyncio.gather(
            site.complete(held[0]),
            site.fail(held[1]),
            site.lease(analysis.id, 3),
            site.lease(analysis.id, 3),
            site.analyses.CancelAnalysis(cancel),
            return_exceptions=True,
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert {getattr(failure, "reason", failure) for failure in failures} <= {"LEASE_LOST"}
        tasks = await site.list_tasks(analysis.id)
        assert {task.state for task in tasks} <= {TASK.TASK_STATE_COMPLETED, TASK.TASK_STATE_SKIPPED}
        assert (await site.get(analysis.id)).state == ANALYSIS.ANALYSIS_STATE_CANCELLED


async def test_required_tasks_that_fail_at_once_end_the_analysis_once(site: Site) -> None:
    analysis = await site.create(*[spec(max_attempts=1) for _ in range(8)])
    leases = await site.lease(analysis.id, 8)
    outcomes = await asyncio.gather(*(site.fail(lease) for lease in leases), return_exceptions=True)
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, faults.Fault)} == {"LEASE_LOST"}
    events = await site.events(f"analysis:{analysis.id}")
    assert events.count("production.analysis.fail") == 1


async def test_leases_with_large_inputs_stay_below_what_a_client_accepts(site: Site) -> None:
    large = struct({"text": "x" * 60_000})
    analysis = await site.create(*[spec(input=large) for _ in range(50)])
    taken = []
    while leases := await site.lease(analysis.id, 50):
        taken += leases
    assert len(taken) == 50


async def test_lists_with_large_results_come_in_shorter_pages(site: Site) -> None:
    analysis = await site.create(*[spec() for _ in range(6)])
    for lease in await site.lease(analysis.id, 6):
        await site.complete(lease, {"text": "x" * 1_000_000})
    request = pb.ListTasksRequest(analysis_id=analysis.id)
    seen: list[str] = []
    while True:
        answer = await site.tasks.ListTasks(request)
        seen += [task.id for task in answer.tasks]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert len(seen) == len(set(seen)) == 6


async def test_a_result_above_its_limit_is_refused_and_the_lease_stays(site: Site) -> None:
    analysis = await site.create()
    [lease] = await site.lease(analysis.id)
    with pytest.raises(faults.InvalidArgument) as caught:
        await site.complete(lease, {"text": "x" * 1024 * 1024})
    assert caught.value.reason == "DOCUMENT_TOO_LARGE"
    await site.complete(lease)


async def test_tasks_of_nobody_and_of_other_tenants_are_not_found(site: Site, suite: Suite) -> None:
    analysis = await site.create()
    [lease] = await site.lease(analysis.id)
    stranger = Site(suite, suite.person(Role.ROLE_ADMIN), site.project_id)
    nobodys = TaskLease(fencing_token=1)
    nobodys.task.id = str(uuid.uuid4())
    for who, which in ((stranger, lease), (site, nobodys)):
        renewal = pb.RenewLeaseRequest(task_id=which.task.id, fencing_token=1)
        attempts: list[Awaitable[object]] = [who.complete(which), who.fail(which), who.tasks.RenewLease(renewal)]
        for attempt in attempts:
            with pytest.raises(faults.NotFound) as caught:
                await attempt
            assert caught.value.reason == "TASK_NOT_FOUND"
    assert await stranger.lease(analysis.id) == []
    with pytest.raises(faults.NotFound) as unknown:
        await stranger.list_tasks(analysis.id)
    assert unknown.value.reason == "ANALYSIS_NOT_FOUND"


async def test_a_viewer_lists_tasks_and_leases_none(site: Site) -> None:
    analysis = await site.create()
    viewer = Site(site.suite, site.user.colleague(Role.ROLE_VIEWER), site.project_id)
    assert len(await viewer.list_tasks(analysis.id)) == 1
    with pytest.raises(faults.PermissionDenied):
        await viewer.lease(analysis.id)


def agent(site: Site, *scopes: str) -> "analysis_task_service_pb2_grpc.AnalysisTaskServiceAsyncStub":
    """Give a stub that calls as an agent of the tenant with these scopes."""
    claims = {"sub": str(uuid.uuid4()), "tid": site.user.tenant_id, "kind": "agent", "role": 0}
    token = site.suite.issuer.token(claims | {"scope": " ".join(scopes)})
    metadata = (("authorization", f"Bearer {token}"),)
    return AnalysisTaskServiceStub(site.suite.channel(AnalysisTaskServiceStub, metadata))


async def test_an_agent_works_within_its_scopes(site: Site) -> None:
    analysis = await site.create()
    worker = agent(site, "tasks.lease", "tasks.complete")
    request = pb.LeaseTasksRequest(worker="a", types=[TaskType.TASK_TYPE_STATIC], analysis_id=analysis.id)
    [lease] = (await worker.LeaseTasks(request)).leases
    result = pb.CompleteTaskRequest(task_id=lease.task.id, fencing_token=1, result=struct({"n": 1}))
    await worker.CompleteTask(result)
    assert (await site.get(analysis.id)).state == ANALYSIS.ANALYSIS_STATE_COMPLETED
    with pytest.raises(faults.PermissionDenied):
        await agent(site, "analyses.get").LeaseTasks(request)
