"""The RPCs of UsageService."""

from collections.abc import AsyncIterator

from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from services.providers import alerts, exports, ledgers, reports, watches
from services.providers.bookings import Bookings
from triptych.providers.v1 import usage_service_pb2 as pb, usage_service_pb2_grpc

MOST_ALERTS = 1000
"""That one watch gives."""


class Usage(usage_service_pb2_grpc.UsageServiceServicer):
    """What was used in the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages, bookings: Bookings) -> None:
        self._db = db
        self._pages = pages
        self._bookings = bookings

    async def ListUsage(self, request: pb.ListUsageRequest, context: object) -> pb.ListUsageResponse:
        async with self._db.begin() as tx:
            return await ledgers.page(tx, request, self._pages.begin(request))

    async def ListCostAlerts(self, request: pb.ListCostAlertsRequest, context: object) -> pb.ListCostAlertsResponse:
        async with self._db.begin() as tx:
            return await alerts.page(tx, request, self._pages.begin(request))

    async def AcknowledgeCostAlert(
        self, request: pb.AcknowledgeCostAlertRequest, context: object
    ) -> pb.AcknowledgeCostAlertResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, alerts.acknowledge)

    async def WatchCostAlerts(
        self, request: pb.WatchCostAlertsRequest, context: object
    ) -> AsyncIterator[pb.WatchCostAlertsResponse]:
        token, given = request.resume_token, 0
        async for _ in watches.rounds(request.seconds):
            async with self._db.begin() as tx:
                found = await alerts.after(tx, token)
            for message in found:
                yield message
                token, given = message.resume_token, given + 1
            if given >= MOST_ALERTS:
                return

    async def RecordUsage(self, request: pb.RecordUsageRequest, context: object) -> pb.RecordUsageResponse:
        return await self._bookings.record(request)

    async def ListUsageTotals(self, request: pb.ListUsageTotalsRequest, context: object) -> pb.ListUsageTotalsResponse:
        async with self._db.begin() as tx:
            return await reports.page(tx, request, self._pages.begin(request))

    async def ExportUsage(
        self, request: pb.ExportUsageRequest, context: object
    ) -> AsyncIterator[pb.ExportUsageResponse]:
        async for message in exports.run(self._db, request):
            yield message
