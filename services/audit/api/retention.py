"""The RPC of RetentionService."""

from services.audit import manifests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.audit.v1 import retention_service_pb2 as pb, retention_service_pb2_grpc


class Retention(retention_service_pb2_grpc.RetentionServiceServicer):
    """An admin sees what has left their log."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def ListRetirements(self, request: pb.ListRetirementsRequest, context: object) -> pb.ListRetirementsResponse:
        async with self._db.begin() as tx:
            return await manifests.page(tx, self._pages.begin(request))
