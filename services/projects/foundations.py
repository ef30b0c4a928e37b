"""A project's birth: the project, its default baselines and, if it is given one, its first production version."""

from services.kit import outbox
from services.kit.db import Transaction
from services.projects import baselines, projects, versions
from triptych.projects.v1 import project_service_pb2 as pb


async def create(tx: Transaction, request: pb.CreateProjectRequest) -> pb.CreateProjectResponse:
    """Found a project, in one transaction."""
    row = await projects.store(tx, request.project)
    await baselines.store_defaults(tx, row["id"])
    if request.HasField("production_configuration"):
        await versions.found(tx, row, request.production_configuration)
    project = await projects.get(tx, str(row["id"]))
    await outbox.record(tx, f"project:{project.id}", project)
    return pb.CreateProjectResponse(project=project)
