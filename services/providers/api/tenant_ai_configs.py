"""The RPCs of TenantAiConfigService."""

from services.kit import calls, requests
from services.kit.db import Database
from services.providers import balances, configs, owners
from triptych.providers.v1 import tenant_ai_config_service_pb2 as pb, tenant_ai_config_service_pb2_grpc


class TenantAiConfigs(tenant_ai_config_service_pb2_grpc.TenantAiConfigServiceServicer):
    """The configuration of the caller's tenant."""

    def __init__(self, *, db: Database) -> None:
        self._db = db

    async def GetTenantAiConfig(
        self, request: pb.GetTenantAiConfigRequest, context: object
    ) -> pb.GetTenantAiConfigResponse:
        owner = owners.tenant(calls.caller().tenant_id)
        async with self._db.begin() as tx:
            config, limits = await configs.get(tx)
            return pb.GetTenantAiConfigResponse(config=config, windows=await balances.standing(tx, owner, limits))

    async def UpdateTenantAiConfig(
        self, request: pb.UpdateTenantAiConfigRequest, context: object
    ) -> pb.UpdateTenantAiConfigResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, configs.change)
