"""Wiring of the production service."""

from datetime import timedelta
from functools import partial
from typing import cast

from services.governance.production import code_reviews, sweeps
from services.governance.production.api.analyses import Analyses
from services.governance.production.api.analysis_tasks import AnalysisTasks
from services.governance.production.api.artifacts import Artifacts
from services.governance.production.api.code_reviews import CodeReviews
from services.governance.production.objects import Objects
from services.governance.production.settings import ProductionSettings
from services.kit.server import Runtime, serve
from triptych.production.v1 import (
    analysis_service_pb2_grpc as analysis_grpc,
    analysis_task_service_pb2_grpc as task_grpc,
    artifact_service_pb2_grpc as artifact_grpc,
    code_review_service_pb2_grpc as review_grpc,
)

SETTINGS = ProductionSettings


async def wire(runtime: Runtime) -> None:
    """Open what the service needs, add its servicers and its sweeps."""
    settings = cast("ProductionSettings", runtime.settings)
    await runtime.open(constraints=code_reviews.CONSTRAINTS)
    db, pages = runtime.db, runtime.pages
    objects = Objects(settings)
    runtime.add(
        "triptych.production.v1.AnalysisService",
        analysis_grpc.add_AnalysisServiceServicer_to_server,
        Analyses(db=db, pages=pages, neighbours=runtime.neighbours),
    )
    runtime.add(
        "triptych.production.v1.AnalysisTaskService",
        task_grpc.add_AnalysisTaskServiceServicer_to_server,
        AnalysisTasks(db=db, pages=pages),
    )
    runtime.add(
        "triptych.production.v1.ArtifactService",
        artifact_grpc.add_ArtifactServiceServicer_to_server,
        Artifacts(db=db, pages=pages, objects=objects, lifetime=timedelta(days=settings.artifact_days) or None),
    )
    runtime.add(
        "triptych.production.v1.CodeReviewService",
        review_grpc.add_CodeReviewServiceServicer_to_server,
        CodeReviews(db=db, pages=pages),
    )
    expire = partial(sweeps.expire_leases, db)
    runtime.background(sweeps.repeat(expire, name="leases", seconds=settings.lease_sweep_seconds))
    orphans = partial(sweeps.delete_orphans, db, objects, timedelta(seconds=settings.orphan_seconds))
    runtime.background(sweeps.repeat(orphans, name="artifacts", seconds=settings.artifact_sweep_seconds))


if __name__ == "__main__":
    serve(SETTINGS, wire)
