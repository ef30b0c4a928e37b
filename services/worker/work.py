"""The worker's loop: lease a task, keep the lease alive while a thread works, hand in what came of it.

A task that fails is reported and does not stop the loop. Work whose lease was lost is dropped: it is another's now.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration

from services.kit import canonical, faults
from services.worker import configurations, graph, static
from triptych.production.v1 import (
    analysis_task_service_pb2 as tasks_pb,
    analysis_task_service_pb2_grpc,
    artifact_service_pb2 as artifacts_pb,
    artifact_service_pb2_grpc,
    code_review_service_pb2 as reviews_pb,
    code_review_service_pb2_grpc,
)
from triptych.production.v1.analysis_pb2 import TaskType
from triptych.production.v1.analysis_task_pb2 import TaskLease
from triptych.production.v1.artifact_pb2 import Artifact, ArtifactType

LEASE = timedelta(seconds=60)
IDLE_SECONDS, LONGEST_PAUSE = 2.0, 60.0
CALL_SECONDS, UPLOAD_SECONDS = 10.0, 120.0
CHUNK = 256 * 1024
DROPPED = {"LEASE_LOST", "ANALYSIS_STATE_CONFLICT"}
"""Reasons that mean that nobody wants this result any more."""
_log = structlog.get_logger()


class FolderRefused(Exception):
    """The task names a folder that this worker does not read."""


class Worker:
    """One worker: one task at a time."""

    def __init__(
        self,
        *,
        channel: grpc.aio.Channel,
        token_file: Path,
        root: Path,
        name: str,
        lease_duration: timedelta = LEASE,
    ) -> None:
        self._tasks = analysis_task_service_pb2_grpc.AnalysisTaskServiceStub(channel)
        self._artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(channel)
        self._reviews = code_review_service_pb2_grpc.CodeReviewServiceStub(channel)
        self._token_file = token_file
        self._root = root.resolve()
        self._name = name
        self._duration = lease_duration

    async def run(self, stop: asyncio.Event, *, once: bool = False) -> None:
        """Work until told to stop, or with `once` until nothing waits. What is begun is ended first."""
        pause = IDLE_SECONDS
        while not stop.is_set():
            try:
                lease = await self.take()
                pause = IDLE_SECONDS
                if lease is not None:
                    await self.work(lease)
                    continue
            except (faults.Fault, OSError) as problem:
                if once:
                    raise
                _log.warning("production does not serve me now", problem=str(problem), pause=pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            if once:
                return
            await _sleep(stop, pause)

    async def take(self) -> TaskLease | None:
        """Lease a task, if one waits."""
        request = tasks_pb.LeaseTasksRequest(
            worker=self._name,
            types=[TaskType.TASK_TYPE_STATIC, TaskType.TASK_TYPE_GRAPH],
            max_tasks=1,
            lease_duration=self._lease_duration(),
            request_id=str(uuid.uuid4()),
        )
        answer = await self._call(self._tasks.LeaseTasks, request)
        return answer.leases[0] if answer.leases else None

    async def work(self, lease: TaskLease) -> None:
        """Run a task and hand in its result, or why there is none."""
        heartbeat = asyncio.create_task(self._keep(lease))
        try:
            result = await self._result(lease)
            request = tasks_pb.CompleteTaskRequest(
                task_id=lease.task.id, fencing_token=lease.fencing_token, request_id=_step(lease, "complete")
            )
            request.result.update(result)
            await self._call(self._tasks.CompleteTask, request)
            _log.info("task completed", task=lease.task.id)
        except Exception as problem:  # noqa: BLE001 - the top of one task's work: whatever it was, the next one goes on
            await self._give_up(lease, problem)
        finally:
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)

    async def _result(self, lease: TaskLease) -> dict[str, Any]:
        task = canonical.plain(lease.task.input)
        folder = await asyncio.to_thread(self._folder, task.get("path"))
        if lease.task.type == TaskType.TASK_TYPE_GRAPH:
            return await asyncio.to_thread(graph.describe, folder)
        configuration = configurations.read(canonical.clean(canonical.plain(lease.configuration)))
        review = await asyncio.to_thread(static.review, folder, configuration)
        artifact = await self._upload(lease, review.report)
        if review.code_review is not None:
            review.code_review.analysis_id = lease.task.analysis_id
            request = reviews_pb.RecordCodeReviewRequest(
                code_review=review.code_review, request_id=_step(lease, "review")
            )
            await self._call(self._reviews.RecordCodeReview, request)
        return review.summary | {"report_artifact_id": artifact.id}

    async def _upload(self, lease: TaskLease, report: bytes) -> Artifact:
        artifact = Artifact(
            analysis_id=lease.task.analysis_id,
            type=ArtifactType.ARTIFACT_TYPE_REPORT,
            name=f"static-{lease.task.id}.json",
            content_type="application/json",
        )
        header = artifacts_pb.ArtifactHeader(artifact=artifact, request_id=_step(lease, "report"))
        stored = await self._call(self._artifacts.UploadArtifact, _messages(header, report), UPLOAD_SECONDS)
        return stored.artifact  # type: ignore[no-any-return]

    async def _give_up(self, lease: TaskLease, problem: Exception) -> None:
        if isinstance(problem, faults.Fault) and problem.reason in DROPPED:
            _log.warning("result dropped", task=lease.task.id, reason=problem.reason)
            return
        _log.warning("task failed", task=lease.task.id, exc_info=problem)
        request = tasks_pb.FailTaskRequest(
            task_id=lease.task.id,
            fencing_token=lease.fencing_token,
            error_message=f"{type(problem).__name__}: {problem}"[:2000],
            request_id=_step(lease, "fail"),
        )
        await self._call(self._tasks.FailTask, request)

    async def _keep(self, lease: TaskLease) -> None:
        """Renew the lease three times in its life; a renewal that fails is tried again at the next."""
        while True:
            await asyncio.sleep(self._duration.total_seconds() / 3)
            request = tasks_pb.RenewLeaseRequest(
                task_id=lease.task.id, fencing_token=lease.fencing_token, lease_duration=self._lease_duration()
            )
            try:
                await self._call(self._tasks.RenewLease, request)
            except (faults.Fault, OSError) as problem:
                _log.warning("lease not renewed", task=lease.task.id, problem=str(problem))

    async def _call(self, method: Any, request: Any, seconds: float = CALL_SECONDS) -> Any:
        token = self._token_file.read_text(encoding="utf-8").strip()
        try:
            return await method(request, metadata=(("authorization", f"Bearer {token}"),), timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise faults.from_error(error, service="production") from None

    def _folder(self, path: object) -> Path:
        if not isinstance(path, str) or not path:
            raise FolderRefused("the task's input must be an object with the name of a folder as `path`")
        folder = (self._root / path).resolve()
        if not folder.is_relative_to(self._root) or not folder.is_dir():
            raise FolderRefused(f"{path} is no folder below this worker's root")
        return folder

    def _lease_duration(self) -> Duration:
        duration = Duration()
        duration.FromTimedelta(self._duration)
        return duration


async def _messages(
    header: artifacts_pb.ArtifactHeader, report: bytes
) -> AsyncIterator[artifacts_pb.UploadArtifactRequest]:
    yield artifacts_pb.UploadArtifactRequest(header=header)
    for start in range(0, len(report), CHUNK):
        yield artifacts_pb.UploadArtifactRequest(chunk=report[start : start + CHUNK])


def _step(lease: TaskLease, name: str) -> str:
    """Give the request id of one step of one lease, so that gRPC's own retries act once."""
    return str(uuid.uuid5(uuid.UUID(lease.task.id), f"{lease.fencing_token} {name}"))


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
