"""What this service asks its neighbours: projects and quarantine.

Never inside a transaction. Every mutation carries a request_id that derives from stable ids, so it may be repeated.
"""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct

from services.kit import faults
from services.kit.clients import Neighbours, of_tenant
from triptych.projects.v1 import (
    baseline_pb2,
    baseline_service_pb2,
    baseline_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    version_pb2,
    version_service_pb2,
    version_service_pb2_grpc,
)
from triptych.quarantine.v1 import reevaluation_pb2, reevaluation_service_pb2, reevaluation_service_pb2_grpc

READS = 3
"""How often baselines are read anew when they change between two pages."""


@dataclass(frozen=True, slots=True)
class Baselines:
    """The active baselines of a project, and the digest that changes with any of them."""

    revision: str
    baselines: list[baseline_pb2.Baseline]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a promotion is decided in."""

    production_version_id: str
    baseline_revision: str
    policies: policy_service_pb2.EvaluatePoliciesResponse


def derived(base: str, step: str) -> str:
    """Give the request_id of a step that belongs to an id."""
    return str(uuid.uuid5(uuid.UUID(base), step))


class Peers:
    """The neighbours, asked in this service's words."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    async def hash(self, project_id: str, configuration: Struct) -> str:
        """Give the hash that a configuration has in a project."""
        request = version_service_pb2.HashConfigurationRequest(project_id=project_id, configuration=configuration)
        return (await self._versions.HashConfiguration(request)).configuration_hash

    async def register(
        self, project_id: str, configuration: Struct, changelog: str, request_id: str
    ) -> version_pb2.Version:
        """Register a configuration as a v1 version."""
        request = version_service_pb2.CreateVersionRequest(
            project_id=project_id, configuration=configuration, changelog=changelog, request_id=request_id
        )
        return (await self._versions.CreateVersion(request)).version

    async def production(self, project_id: str) -> str:
        """Give the id of the version in production; empty when there is none."""
        request = version_service_pb2.GetProductionVersionRequest(project_id=project_id)
        try:
            return (await self._versions.GetProductionVersion(request)).version.id
        except faults.FailedPrecondition as fault:
            if fault.reason != "PROJECT_WITHOUT_PRODUCTION":
                raise
            return ""

    async def baselines(self, project_id: str) -> Baselines:
        """Give all active baselines, of one revision."""
        for _ in range(READS):
            if (found := await self._read_baselines(project_id)) is not None:
                return found
        raise faults.Aborted("the project's baselines keep changing; retry")

    async def surroundings(self, project_id: str, case: Mapping[str, Any]) -> Surroundings:
        """Give production, baselines and what the policies say about a case."""
        document = Struct()
        document.update(dict(case))
        request = policy_service_pb2.EvaluatePoliciesRequest(project_id=project_id, input=document)
        policies = self._neighbours.stub("projects", policy_service_pb2_grpc.PolicyServiceStub)
        production, baselines, decided = await asyncio.gather(
            self.production(project_id), self.baselines(project_id), policies.EvaluatePolicies(request)
        )
        return Surroundings(production, baselines.revision, decided)

    async def reevaluation(self, reevaluation_id: str) -> reevaluation_pb2.Reevaluation | None:
        """Give a re-evaluation; None when there is no such."""
        stub = self._neighbours.stub("quarantine", reevaluation_service_pb2_grpc.ReevaluationServiceStub)
        request = reevaluation_service_pb2.GetReevaluationRequest(reevaluation_id=reevaluation_id)
        try:
            return (await stub.GetReevaluation(request)).reevaluation
        except faults.NotFound:
            return None

    async def promote(self, tenant_id: str, request: version_service_pb2.PromoteVersionRequest) -> None:
        """Move a version into production."""
        await self._versions.PromoteVersion(request, metadata=of_tenant(tenant_id))

    async def version(self, tenant_id: str, version_id: str) -> version_pb2.Version:
        """Give a version."""
        request = version_service_pb2.GetVersionRequest(version_id=version_id)
        return (await self._versions.GetVersion(request, metadata=of_tenant(tenant_id))).version

    @property
    def _versions(self) -> "version_service_pb2_grpc.VersionServiceAsyncStub":
        return self._neighbours.stub("projects", version_service_pb2_grpc.VersionServiceStub)

    async def _read_baselines(self, project_id: str) -> Baselines | None:
        """Read all pages; None when another page came of another revision."""
        stub = self._neighbours.stub("projects", baseline_service_pb2_grpc.BaselineServiceStub)
        request = baseline_service_pb2.ListBaselinesRequest(project_id=project_id, page_size=200)
        page = await stub.ListBaselines(request)
        found = list(page.baselines)
        while page.next_page_token:
            revision, request.page_token = page.revision, page.next_page_token
            page = await stub.ListBaselines(request)
            if page.revision != revision:
                return None
            found += page.baselines
        return Baselines(page.revision, [baseline for baseline in found if baseline.active])
