"""The RPCs of MemberService."""

from services.auth import departures, members, sources
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import member_service_pb2 as pb, member_service_pb2_grpc


class Members(member_service_pb2_grpc.MemberServiceServicer):
    """Who belongs to the caller's tenant, and as what."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def GetMember(self, request: pb.GetMemberRequest, context: object) -> pb.GetMemberResponse:
        async with self._db.begin() as tx:
            return await members.get(tx, request)

    async def FindMember(self, request: pb.FindMemberRequest, context: object) -> pb.FindMemberResponse:
        async with self._db.begin() as tx:
            return await members.find(tx, request)

    async def ListMembers(self, request: pb.ListMembersRequest, context: object) -> pb.ListMembersResponse:
        async with self._db.begin() as tx:
            return await members.page(tx, request, self._pages.begin(request))

    async def UpdateMember(self, request: pb.UpdateMemberRequest, context: object) -> pb.UpdateMemberResponse:
        source = sources.of(context)
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, request: members.change(tx, request, source))

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: object) -> pb.RemoveMemberResponse:
        source = sources.of(context)
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, request: departures.record(tx, request, source))

    async def LinkIdentity(self, request: pb.LinkIdentityRequest, context: object) -> pb.LinkIdentityResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, members.link)

    async def UnlinkIdentity(self, request: pb.UnlinkIdentityRequest, context: object) -> pb.UnlinkIdentityResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, members.unlink)
