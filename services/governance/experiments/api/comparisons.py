"""The RPCs of ComparisonService."""

from services.governance.experiments import comparisons
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.experiments.v1 import comparison_service_pb2 as pb, comparison_service_pb2_grpc


class Comparisons(comparison_service_pb2_grpc.ComparisonServiceServicer):
    """Comparison reports of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def GetComparison(self, request: pb.GetComparisonRequest, context: object) -> pb.GetComparisonResponse:
        async with self._db.begin() as tx:
            return pb.GetComparisonResponse(comparison=await comparisons.get(tx, request.comparison_id))

    async def ListComparisons(self, request: pb.ListComparisonsRequest, context: object) -> pb.ListComparisonsResponse:
        async with self._db.begin() as tx:
            return await comparisons.page(tx, request, self._pages.begin(request))
