"""The worker against the real production service: in this process, and as a process of its own."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import orjson
import pytest

from services.kit import canonical, faults
from services.worker.work import Worker
from tests.patience import eventually, output
from tests.production.builders import ANALYSIS, TASK, Site, settle, spec, struct, superuser
from tests.suite import Suite
from triptych.production.v1 import artifact_service_pb2, code_review_service_pb2
from triptych.production.v1.analysis_pb2 import TaskType
from triptych.production.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from triptych.production.v1.code_review_service_pb2_grpc import CodeReviewServiceStub

WEAK = "import subprocess\n\n\ndef run(text):\n    return subprocess.run(text, shell=True)\n"
GRAPH = TaskType.TASK_TYPE_GRAPH


@pytest.fixture
async def site(suite: Suite) -> Site:
    return await settle(suite)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with code, and a token beside it."""
    code = tmp_path / "code" / "app"
    code.mkdir(parents=True)
    (code / "weak.py").write_text(WEAK)
    (code / "other.py").write_text("import weak\n")
    return tmp_path / "code"


@pytest.fixture
async def channel(site: Site) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address(site)) as channel:
        yield channel


@pytest.fixture
async def worker(site: Site, root: Path, channel: grpc.aio.Channel) -> Worker:
    return Worker(channel=channel, token_file=token(site, root), root=root, name="tester")


def address(site: Site) -> str:
    return f"127.0.0.1:{site.suite.runtimes['production'].plaintext_port}"


def token(site: Site, root: Path) -> Path:
    file = root.parent / "token"
    file.write_text(site.user.token + "\n")
    return file


async def test_static_and_graph_tasks_are_done(site: Site, worker: Worker) -> None:
    here = struct({"path": "app"})
    analysis = await site.create(spec(input=here), spec(GRAPH, input=here))
    await worker.run(asyncio.Event(), once=True)
    assert (await site.get(analysis.id)).state == ANALYSIS.ANALYSIS_STATE_COMPLETED
    reviewed, described = await site.list_tasks(analysis.id)
    assert reviewed.worker == "tester"
    found = canonical.plain(reviewed.result)
    assert found["findings_by_rule"] == {"B404": 1, "B602": 1}
    assert canonical.plain(described.result)["edges"] == [["other", "weak"]]
    listing = artifact_service_pb2.ListArtifactsRequest(analysis_id=analysis.id)
    [artifact] = (await site.stub(ArtifactServiceStub).ListArtifacts(listing)).artifacts
    assert artifact.id == found["report_artifact_id"]
    request = artifact_service_pb2.DownloadArtifactRequest(artifact_id=artifact.id)
    report = b"".join([item.chunk async for item in site.stub(ArtifactServiceStub).DownloadArtifact(request)])
    assert {item["rule"] for item in orjson.loads(report)["findings"]} == {"B404", "B602"}
    reviews = code_review_service_pb2.ListCodeReviewsRequest(analysis_id=analysis.id)
    [review] = (await site.stub(CodeReviewServiceStub).ListCodeReviews(reviews)).code_reviews
    assert (review.issues_count, review.vulnerabilities_count) == (2, 1)


async def test_a_folder_without_analysable_code_completes_without_a_review(
    site: Site, worker: Worker, root: Path
) -> None:
    (root / "empty").mkdir()
    analysis = await site.create(spec(input=struct({"path": "empty"})))
    await worker.run(asyncio.Event(), once=True)
    [task] = await site.list_tasks(analysis.id)
    assert (task.state, task.result["files"]) == (TASK.TASK_STATE_COMPLETED, 0)
    reviews = code_review_service_pb2.ListCodeReviewsRequest(analysis_id=analysis.id)
    assert not (await site.stub(CodeReviewServiceStub).ListCodeReviews(reviews)).code_reviews


@pytest.mark.parametrize("path", ["../token", "..", "/etc", "missing", "app/weak.py", "link", "", None])
async def test_what_is_outside_of_the_root_is_refused_and_the_next_task_is_done(
    site: Site, worker: Worker, root: Path, path: str | None
) -> None:
    (root / "link").symlink_to("/etc")
    given = struct({} if path is None else {"path": path})
    bad = spec(input=given, max_attempts=1, optional=True)
    analysis = await site.create(bad, spec(GRAPH, input=struct({"path": "app"})))
    await worker.run(asyncio.Event(), once=True)
    refused, done = await site.list_tasks(analysis.id)
    assert refused.state == TASK.TASK_STATE_FAILED
    assert refused.error_message.startswith("FolderRefused: ")
    assert done.state == TASK.TASK_STATE_COMPLETED


async def test_a_configuration_that_is_none_of_an_analyser_fails_the_task(suite: Suite, root: Path) -> None:
    site = await settle(suite, {"model": "something else"})
    analysis = await site.create(spec(input=struct({"path": "app"}), max_attempts=1))
    async with grpc.aio.insecure_channel(address(site)) as channel:
        worker = Worker(channel=channel, token_file=token(site, root), root=root, name="tester")
        await worker.run(asyncio.Event(), once=True)
    [task] = await site.list_tasks(analysis.id)
    assert task.state == TASK.TASK_STATE_FAILED
    assert "ConfigurationInvalid: model" in task.error_message


async def test_other_kinds_of_work_are_left_to_others(site: Site, worker: Worker) -> None:
    analysis = await site.create(spec(TaskType.TASK_TYPE_AI), spec(TaskType.TASK_TYPE_DYNAMIC))
    await worker.run(asyncio.Event(), once=True)
    assert {task.attempt for task in await site.list_tasks(analysis.id)} == {0}


async def test_a_result_whose_lease_was_lost_is_dropped(site: Site, worker: Worker) -> None:
    analysis = await site.create(spec(GRAPH, input=struct({"path": "app"})))
    stale = await worker.take()
    assert stale is not None
    await site.let_expire(stale)
    [fresh] = await site.lease(analysis.id, worker="other")
    await worker.work(stale)
    await site.complete(fresh, {"by": "other"})
    [task] = await site.list_tasks(analysis.id)
    assert task.result["by"] == "other"


async def test_the_heartbeat_moves_the_end_of_the_lease(site: Site, root: Path, channel: grpc.aio.Channel) -> None:
    short = timedelta(seconds=5)
    worker = Worker(channel=channel, token_file=token(site, root), root=root, name="slow", lease_duration=short)
    await site.create(spec(input=struct({"path": "app"})))
    lease = await worker.take()
    assert lease is not None
    heartbeat, first = asyncio.create_task(worker._keep(lease)), lease.expire_time.ToDatetime(UTC)
    try:
        await eventually(lambda: end(site, lease.task.id), lambda now: heartbeat.done() or now > first)
        assert not heartbeat.done()
    finally:
        heartbeat.cancel()
    await worker.work(lease)


async def end(site: Site, task_id: str) -> datetime:
    """Give the moment at which a lease ends, as the database has it."""
    async with superuser(site.suite) as connection:
        found: datetime = await connection.fetchval(
            "SELECT lease_expire_time FROM analysis_tasks WHERE id = $1", uuid.UUID(task_id)
        )
    return found


async def test_a_token_that_is_refused_ends_a_single_round_with_the_reason(
    site: Site, worker: Worker, root: Path
) -> None:
    (root.parent / "token").write_text("no token")
    with pytest.raises(faults.Unauthenticated):
        await worker.run(asyncio.Event(), once=True)
    token(site, root)
    await worker.run(asyncio.Event(), once=True)


async def start_process(site: Site, root: Path, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.worker", "--production", address(site), "--root", str(root),
        "--token-file", str(token(site, root)), "--name", "process", *options,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def test_the_program_works_once_and_ends(site: Site, root: Path) -> None:
    analysis = await site.create(spec(input=struct({"path": "app"})))
    process = await start_process(site, root, "--once")
    said, _ = await output(process)
    assert process.returncode == 0, said.decode()
    assert (await site.get(analysis.id)).state == ANALYSIS.ANALYSIS_STATE_COMPLETED


async def test_the_program_serves_until_it_is_told_to_stop(site: Site, root: Path) -> None:
    process = await start_process(site, root)
    try:
        analysis = await site.create(spec(GRAPH, input=struct({"path": "app"})))
        await eventually(
            lambda: site.get(analysis.id),
            lambda now: process.returncode is not None or now.state == ANALYSIS.ANALYSIS_STATE_COMPLETED,
        )
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        said, _ = await output(process)
    assert process.returncode == 0, said.decode()


async def test_a_token_does_not_travel_in_the_clear(site: Site, root: Path) -> None:
    process = await start_process(site, root, "--production", "production.example:7550")
    said, _ = await output(process)
    assert process.returncode == 2
    assert "--ca-file" in said.decode()
