"""The RPCs of SourceService."""

from services.audit import sources
from services.audit.sources import Bounds
from services.kit import calls
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.audit.v1 import source_service_pb2 as pb, source_service_pb2_grpc


class Sources(source_service_pb2_grpc.SourceServiceServicer):
    """A service reports itself; who runs the installation sees all of them."""

    def __init__(self, *, db: Database, reads: Database, pages: Pages, bounds: Bounds) -> None:
        self._db = db
        self._reads = reads
        self._pages = pages
        self._bounds = bounds

    async def ReportSource(self, request: pb.ReportSourceRequest, context: object) -> pb.ReportSourceResponse:
        return await sources.report(self._db, calls.caller().service, request.marks)

    async def ListSources(self, request: pb.ListSourcesRequest, context: object) -> pb.ListSourcesResponse:
        async with self._reads.begin() as tx:
            return await sources.page(tx, self._pages.begin(request), self._bounds)
