"""The RPCs of TenantService."""

from services.auth import tenants
from services.kit import requests
from services.kit.db import Database
from triptych.auth.v1 import tenant_service_pb2 as pb, tenant_service_pb2_grpc


class Tenants(tenant_service_pb2_grpc.TenantServiceServicer):
    """The caller's tenant."""

    def __init__(self, *, db: Database) -> None:
        self._db = db

    async def GetTenant(self, request: pb.GetTenantRequest, context: object) -> pb.GetTenantResponse:
        async with self._db.begin() as tx:
            return pb.GetTenantResponse(tenant=await tenants.get(tx))

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: object) -> pb.UpdateTenantResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, tenants.change)
