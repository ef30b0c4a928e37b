"""Wiring of the projects service."""

from services.kit.server import Runtime, serve
from services.kit.settings import Settings
from services.projects import baselines, policies, projects, versions
from services.projects.api.baselines import Baselines
from services.projects.api.policies import Policies
from services.projects.api.projects import Projects
from services.projects.api.versions import Versions
from services.projects.sandbox.supervisors import Sandbox
from triptych.projects.v1 import (
    baseline_service_pb2_grpc as baseline_grpc,
    policy_service_pb2_grpc as policy_grpc,
    project_service_pb2_grpc as project_grpc,
    version_service_pb2_grpc as version_grpc,
)

CONSTRAINTS = projects.CONSTRAINTS | versions.CONSTRAINTS | baselines.CONSTRAINTS | policies.CONSTRAINTS


async def wire(runtime: Runtime) -> None:
    """Open what the service needs and add its servicers."""
    await runtime.open(constraints=CONSTRAINTS)
    sandbox = Sandbox()
    await sandbox.start()
    runtime.on_close(sandbox.close)
    runtime.background(sandbox.keep())
    runtime.add(
        "triptych.projects.v1.ProjectService",
        project_grpc.add_ProjectServiceServicer_to_server,
        Projects(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.projects.v1.VersionService",
        version_grpc.add_VersionServiceServicer_to_server,
        Versions(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.projects.v1.BaselineService",
        baseline_grpc.add_BaselineServiceServicer_to_server,
        Baselines(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.projects.v1.PolicyService",
        policy_grpc.add_PolicyServiceServicer_to_server,
        Policies(db=runtime.db, pages=runtime.pages, sandbox=sandbox),
    )


if __name__ == "__main__":
    serve(Settings, wire)
