"""What tests of production begin with: a project with something in production, analyses in it, a view past the API."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import grpc
from google.protobuf.struct_pb2 import Struct

from tests.suite import Person, Suite, superuser_of
from triptych.common.v1.role_pb2 import Role
from triptych.production.v1 import (
    analysis_pb2,
    analysis_service_pb2 as analyses_pb,
    analysis_service_pb2_grpc as analyses_grpc,
    analysis_task_pb2,
    analysis_task_service_pb2 as tasks_pb,
    analysis_task_service_pb2_grpc as tasks_grpc,
)
from triptych.production.v1.analysis_pb2 import Analysis, TaskSpec, TaskType
from triptych.production.v1.analysis_task_pb2 import AnalysisTask, TaskLease
from triptych.projects.v1 import project_service_pb2
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub

Stub = TypeVar("Stub")
CONFIGURATION = {"engines": {"ruff": {"enabled": True, "select": ["S"], "ignore": []}}}


async def start(suite: Suite) -> None:
    """Start production and its neighbour; the sweeps run when a test says so."""
    await suite.start("projects")
    await suite.start("production", lease_sweep_seconds=86400.0, artifact_sweep_seconds=86400.0)


def struct(value: dict[str, Any]) -> Struct:
    """Give plain values as a Struct."""
    made = Struct()
    made.update(value)
    return made


def spec(type_: "TaskType.ValueType" = TaskType.TASK_TYPE_STATIC, **fields: Any) -> TaskSpec:
    """Give a task to create."""
    return TaskSpec(type=type_, **fields)


@dataclass(frozen=True)
class Site:
    """Somebody who may work in a project that has something in production."""

    suite: Suite
    user: Person
    project_id: str

    @property
    def analyses(self) -> "analyses_grpc.AnalysisServiceAsyncStub":
        return self.stub(analyses_grpc.AnalysisServiceStub)

    @property
    def tasks(self) -> "tasks_grpc.AnalysisTaskServiceAsyncStub":
        return self.stub(tasks_grpc.AnalysisTaskServiceStub)

    def stub(self, kind: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """Give a stub that calls as the user."""
        return self.user.stub(kind)

    async def create(self, *specs: TaskSpec, **fields: Any) -> Analysis:
        """Create an analysis, of one static task unless told otherwise."""
        request = analyses_pb.CreateAnalysisRequest(project_id=self.project_id, tasks=specs or [spec()], **fields)
        return (await self.analyses.CreateAnalysis(request)).analysis

    async def get(self, analysis_id: str) -> Analysis:
        """Read an analysis."""
        return (await self.analyses.GetAnalysis(analyses_pb.GetAnalysisRequest(analysis_id=analysis_id))).analysis

    async def list_tasks(self, analysis_id: str) -> Sequence[AnalysisTask]:
        """Read its tasks."""
        request = tasks_pb.ListTasksRequest(analysis_id=analysis_id, page_size=200)
        return (await self.tasks.ListTasks(request)).tasks

    async def lease(self, analysis_id: str, count: int = 1, worker: str = "worker", **fields: Any) -> list[TaskLease]:
        """Lease tasks of an analysis."""
        types = [TaskType.TASK_TYPE_STATIC, TaskType.TASK_TYPE_GRAPH, TaskType.TASK_TYPE_AI]
        request = tasks_pb.LeaseTasksRequest(
            analysis_id=analysis_id, worker=worker, max_tasks=count, types=types, **fields
        )
        return list((await self.tasks.LeaseTasks(request)).leases)

    async def complete(self, lease: TaskLease, result: dict[str, Any] | None = None) -> AnalysisTask:
        """Hand in a result."""
        request = tasks_pb.CompleteTaskRequest(
            task_id=lease.task.id, fencing_token=lease.fencing_token, result=struct(result or {"ok": True})
        )
        return (await self.tasks.CompleteTask(request)).task

    async def fail(self, lease: TaskLease, error_message: str = "it broke") -> AnalysisTask:
        """Say that a try failed."""
        request = tasks_pb.FailTaskRequest(
            task_id=lease.task.id, fencing_token=lease.fencing_token, error_message=error_message
        )
        return (await self.tasks.FailTask(request)).task

    async def let_expire(self, *leases: TaskLease) -> None:
        """Turn the clock: the leases' ends are in the past."""
        async with superuser(self.suite) as connection:
            await connection.execute(
                "UPDATE analysis_tasks SET lease_expire_time = now() - interval '1 second'"
                " WHERE state = 'running' AND id = ANY($1::uuid[])",
                [uuid.UUID(lease.task.id) for lease in leases],
            )

    async def events(self, entity: str) -> list[str]:
        """Give the actions recorded of an entity, oldest first."""
        async with superuser(self.suite) as connection:
            rows = await connection.fetch("SELECT action FROM outbox WHERE entity = $1 ORDER BY event_id", entity)
        return [row["action"] for row in rows]


async def settle(suite: Suite, configuration: dict[str, Any] | None = None) -> Site:
    """Make a project with something in production, and a user of it."""
    await start(suite)
    admin = suite.person(Role.ROLE_ADMIN)
    request = project_service_pb2.CreateProjectRequest(
        project=Project(name=f"project-{uuid.uuid4()}"),
        production_configuration=struct(CONFIGURATION if configuration is None else configuration),
    )
    created = await admin.stub(ProjectServiceStub).CreateProject(request)
    return Site(suite, admin.colleague(Role.ROLE_USER), created.project.id)


@asynccontextmanager
async def superuser(suite: Suite) -> AsyncIterator[Any]:
    """Connect past row-level security, to look and to turn clocks."""
    async with superuser_of(suite.backends, suite.database) as connection:
        await connection.execute("SET search_path TO production")
        yield connection


@asynccontextmanager
async def application(suite: Suite, tenant_id: str = "") -> AsyncIterator[Any]:
    """Connect as the service itself does, in a transaction of a tenant that is rolled back in the end."""
    role = "triptych_production_app"
    server = suite.backends.postgres_server
    connection = await asyncpg.connect(
        host=server.host,
        port=server.port,
        user=role,
        password=suite.backends.password(role),
        database=suite.database,
    )
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SELECT set_config('app.tenant', $1, true)", tenant_id)
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


def size(value: dict[str, Any]) -> int:
    """Give the size of a document as compact JSON."""
    return len(json.dumps(value, separators=(",", ":")).encode())


ANALYSIS = analysis_pb2.AnalysisState
TASK = analysis_task_pb2.TaskState
