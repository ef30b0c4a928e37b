"""The RPCs of InvitationService."""

from services.auth import invitations, refusals, sources
from services.kit import calls, requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import invitation_service_pb2 as pb, invitation_service_pb2_grpc


class Invitations(invitation_service_pb2_grpc.InvitationServiceServicer):
    """Invitations into the caller's tenant, and out of others."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateInvitation(
        self, request: pb.CreateInvitationRequest, context: object
    ) -> pb.CreateInvitationResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, invitations.create)

    async def ListInvitations(self, request: pb.ListInvitationsRequest, context: object) -> pb.ListInvitationsResponse:
        async with self._db.begin() as tx:
            return await invitations.page(tx, self._pages.begin(request))

    async def RevokeInvitation(
        self, request: pb.RevokeInvitationRequest, context: object
    ) -> pb.RevokeInvitationResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, invitations.revoke)

    async def AcceptInvitation(
        self, request: pb.AcceptInvitationRequest, context: object
    ) -> pb.AcceptInvitationResponse:
        source = sources.of(context)
        async with refusals.noted(self._db, f"user:{calls.caller().id}", source):
            code = invitations.parse(request.code)
            async with self._db.begin(tenant=code.tenant_id) as tx:
                return await requests.once(tx, request, lambda tx, _: invitations.accept(tx, code, source))
