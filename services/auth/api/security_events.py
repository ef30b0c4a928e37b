"""The RPC of SecurityEventService."""

from services.auth import events
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import security_event_service_pb2 as pb, security_event_service_pb2_grpc


class SecurityEvents(security_event_service_pb2_grpc.SecurityEventServiceServicer):
    """Who tried what from where, and how it came out."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def ListSecurityEvents(
        self, request: pb.ListSecurityEventsRequest, context: object
    ) -> pb.ListSecurityEventsResponse:
        page = self._pages.begin(request)
        async with self._db.begin() as tx:
            return await events.page(tx, request, page)
