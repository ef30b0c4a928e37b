"""The RPCs of SessionService."""

from services.auth import activities, endings, sessions, sources
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import session_service_pb2 as pb, session_service_pb2_grpc


class Sessions(session_service_pb2_grpc.SessionServiceServicer):
    """Sessions of the caller; for admins, of everybody in the tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def ListSessions(self, request: pb.ListSessionsRequest, context: object) -> pb.ListSessionsResponse:
        page = self._pages.begin(request)
        async with self._db.begin() as tx:
            return await sessions.page(tx, request, page)

    async def ListSessionActivities(
        self, request: pb.ListSessionActivitiesRequest, context: object
    ) -> pb.ListSessionActivitiesResponse:
        page = self._pages.begin(request)
        async with self._db.begin() as tx:
            session = await sessions.visible(tx, request.session_id)
            return await activities.page(tx, session["id"], page)

    async def RevokeSession(self, request: pb.RevokeSessionRequest, context: object) -> pb.RevokeSessionResponse:
        source = sources.of(context)
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, request: endings.revoke(tx, request, source))

    async def RevokeAllSessions(
        self, request: pb.RevokeAllSessionsRequest, context: object
    ) -> pb.RevokeAllSessionsResponse:
        source = sources.of(context)
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, request: endings.revoke_all(tx, request, source))
