"""The RPCs of TenantService."""

from services.auth import foundations, sources, tenants
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import tenant_service_pb2 as pb, tenant_service_pb2_grpc


class Tenants(tenant_service_pb2_grpc.TenantServiceServicer):
    """The caller's tenant, and the way to others."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def GetTenant(self, request: pb.GetTenantRequest, context: object) -> pb.GetTenantResponse:
        async with self._db.begin() as tx:
            return pb.GetTenantResponse(tenant=await tenants.get(tx))

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: object) -> pb.UpdateTenantResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, tenants.change)

    async def ListTenants(self, request: pb.ListTenantsRequest, context: object) -> pb.ListTenantsResponse:
        async with self._db.begin() as tx:
            return await tenants.page(tx, self._pages.begin(request))

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: object) -> pb.CreateTenantResponse:
        source = sources.of(context)
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, request: foundations.create(tx, request, source))

    async def DeleteTenant(self, request: pb.DeleteTenantRequest, context: object) -> pb.DeleteTenantResponse:
        source = sources.of(context)
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, request: foundations.delete(tx, request, source))
