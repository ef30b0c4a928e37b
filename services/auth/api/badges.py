"""The RPCs of BadgeService."""

from services.auth import awards, badge_types, badges
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import badge_service_pb2 as pb, badge_service_pb2_grpc


class Badges(badge_service_pb2_grpc.BadgeServiceServicer):
    """Badges of the members of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateBadgeType(self, request: pb.CreateBadgeTypeRequest, context: object) -> pb.CreateBadgeTypeResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, badge_types.create)

    async def ListBadgeTypes(self, request: pb.ListBadgeTypesRequest, context: object) -> pb.ListBadgeTypesResponse:
        async with self._db.begin() as tx:
            return await badge_types.page(tx, self._pages.begin(request))

    async def AwardBadge(self, request: pb.AwardBadgeRequest, context: object) -> pb.AwardBadgeResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, awards.create)

    async def GetBadge(self, request: pb.GetBadgeRequest, context: object) -> pb.GetBadgeResponse:
        async with self._db.begin() as tx:
            return pb.GetBadgeResponse(badge=await badges.get(tx, request.badge_id))

    async def ListBadges(self, request: pb.ListBadgesRequest, context: object) -> pb.ListBadgesResponse:
        async with self._db.begin() as tx:
            return await badges.page(tx, request, self._pages.begin(request))

    async def GetBadgeLineage(self, request: pb.GetBadgeLineageRequest, context: object) -> pb.GetBadgeLineageResponse:
        async with self._db.begin() as tx:
            return await badges.trace(tx, request.badge_id)

    async def RevokeBadge(self, request: pb.RevokeBadgeRequest, context: object) -> pb.RevokeBadgeResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, badges.revoke)
