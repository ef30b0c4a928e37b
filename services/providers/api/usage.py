"""The RPCs of UsageService."""

from services.kit.db import Database
from services.kit.paging import Pages
from services.providers import alerts, ledgers
from triptych.providers.v1 import usage_service_pb2 as pb, usage_service_pb2_grpc


class Usage(usage_service_pb2_grpc.UsageServiceServicer):
    """What was used in the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def ListUsage(self, request: pb.ListUsageRequest, context: object) -> pb.ListUsageResponse:
        async with self._db.begin() as tx:
            return await ledgers.page(tx, request, self._pages.begin(request))

    async def ListCostAlerts(self, request: pb.ListCostAlertsRequest, context: object) -> pb.ListCostAlertsResponse:
        async with self._db.begin() as tx:
            return await alerts.page(tx, self._pages.begin(request))
