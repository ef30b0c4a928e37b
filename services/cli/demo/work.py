"""Step 7: real work with what is in production, by a worker that leases tasks."""

import asyncio
import hashlib
from importlib.metadata import version
from pathlib import Path

import click
from google.protobuf.struct_pb2 import Struct

from services.cli.demo.stage import Stage, struct
from triptych.production.v1.analysis_pb2 import Analysis, AnalysisState, TaskSpec, TaskType
from triptych.production.v1.analysis_service_pb2 import CreateAnalysisRequest, GetAnalysisRequest
from triptych.production.v1.analysis_service_pb2_grpc import AnalysisServiceStub
from triptych.production.v1.analysis_task_service_pb2 import ListTasksRequest
from triptych.production.v1.analysis_task_service_pb2_grpc import AnalysisTaskServiceStub
from triptych.production.v1.artifact_service_pb2 import DownloadArtifactRequest, ListArtifactsRequest
from triptych.production.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from triptych.production.v1.code_review_service_pb2 import ListCodeReviewsRequest
from triptych.production.v1.code_review_service_pb2_grpc import CodeReviewServiceStub

PATIENCE_SECONDS = 60.0


async def production_works(stage: Stage) -> None:
    """Analyse the source of an installed package."""
    tell = stage.narrator
    tell.begin(7, "Production works: a package is analysed by a worker")
    source = Path(click.__file__).parent
    linus = stage.cast["Linus"].client
    created = await linus.stub(AnalysisServiceStub).CreateAnalysis(
        CreateAnalysisRequest(
            project_id=stage.project.id,
            tasks=[
                TaskSpec(type=TaskType.TASK_TYPE_STATIC, input=struct({"path": str(source)})),
                TaskSpec(type=TaskType.TASK_TYPE_GRAPH, input=struct({"path": str(source)})),
            ],
            metadata=struct({"package": "click", "version": version("click")}),
        )
    )
    tell.call("Linus", "AnalysisService.CreateAnalysis", f"click {version('click')}: {created.analysis.id}")
    token = stage.folder / "worker-token"
    token.touch(mode=0o600)
    token.write_text(linus.token)
    where = ("--production", stage.addresses["production"], "--token-file", str(token), "--root", str(source))
    worker = stage.start("services.worker", *where)
    try:
        analysis = await _ended(stage, created.analysis.id)
    finally:
        worker.terminate()
        worker.wait(15)
    tell.call("worker", "LeaseTasks, RenewLease, CompleteTask", f"{analysis.ended_task_count} tasks")
    tell.check(
        analysis.state == AnalysisState.ANALYSIS_STATE_COMPLETED, f"the analysis failed: {analysis.error_message}"
    )
    tasks = await linus.stub(AnalysisTaskServiceStub).ListTasks(ListTasksRequest(analysis_id=analysis.id))
    for task in tasks.tasks:
        kind = TaskType.Name(task.type).removeprefix("TASK_TYPE_").lower()
        tell.got(f"{kind:<8} {task.duration_ms} ms  {', '.join(_gist(task.result))}")
    await _show_results(stage, analysis)


async def _ended(stage: Stage, analysis_id: str) -> Analysis:
    stub = stage.cast["Linus"].client.stub(AnalysisServiceStub)
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        analysis = (await stub.GetAnalysis(GetAnalysisRequest(analysis_id=analysis_id))).analysis
        if analysis.state >= AnalysisState.ANALYSIS_STATE_COMPLETED:
            return analysis
        stage.narrator.check(asyncio.get_running_loop().time() < deadline, "the worker did not finish in a minute")
        await asyncio.sleep(0.2)


async def _show_results(stage: Stage, analysis: Analysis) -> None:
    linus = stage.cast["Linus"].client
    tell = stage.narrator
    reviews = await linus.stub(CodeReviewServiceStub).ListCodeReviews(ListCodeReviewsRequest(analysis_id=analysis.id))
    for review in reviews.code_reviews:
        size = f"{review.issues_count} findings in {review.code_length} characters"
        tell.got(f"review: score {review.overall_score:.2f} of 100, {size}")
    artifacts = linus.stub(ArtifactServiceStub)
    for artifact in (await artifacts.ListArtifacts(ListArtifactsRequest(analysis_id=analysis.id))).artifacts:
        digest = hashlib.sha256()
        async for message in artifacts.DownloadArtifact(DownloadArtifactRequest(artifact_id=artifact.id)):
            digest.update(message.chunk)
        tell.check(digest.hexdigest() == artifact.sha256, "the artifact must be what was stored")
        tell.got(f"artifact {artifact.name}, {artifact.size_bytes} bytes, sha256 {artifact.sha256} (checked)")


def _gist(result: Struct) -> list[str]:
    """The plain figures of a result."""
    return [f"{name} {int(value)}" for name, value in result.items() if isinstance(value, float)]
