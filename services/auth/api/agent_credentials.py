"""The RPCs of AgentCredentialService."""

from services.auth import credentials, exchanges, issuances, sources
from services.auth.sources import Sources
from services.auth.tokens import Minting
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import agent_credential_service_pb2 as pb, agent_credential_service_pb2_grpc


class AgentCredentials(agent_credential_service_pb2_grpc.AgentCredentialServiceServicer):
    """Credentials of agents, and their exchange for tokens."""

    def __init__(self, *, db: Database, pages: Pages, bad: Sources, minting: Minting) -> None:
        self._db = db
        self._pages = pages
        self._bad = bad
        self._minting = minting

    async def CreateAgentCredential(
        self, request: pb.CreateAgentCredentialRequest, context: object
    ) -> pb.CreateAgentCredentialResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, issuances.create)

    async def ListAgentCredentials(
        self, request: pb.ListAgentCredentialsRequest, context: object
    ) -> pb.ListAgentCredentialsResponse:
        page = self._pages.begin(request)
        async with self._db.begin() as tx:
            return await issuances.page(tx, request, page)

    async def RotateAgentCredential(
        self, request: pb.RotateAgentCredentialRequest, context: object
    ) -> pb.RotateAgentCredentialResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, issuances.rotate)

    async def RevokeAgentCredential(
        self, request: pb.RevokeAgentCredentialRequest, context: object
    ) -> pb.RevokeAgentCredentialResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, issuances.revoke)

    async def ListAgentCredentialUses(
        self, request: pb.ListAgentCredentialUsesRequest, context: object
    ) -> pb.ListAgentCredentialUsesResponse:
        page = self._pages.begin(request)
        async with self._db.begin() as tx:
            return await exchanges.page(tx, request, page)

    async def ExchangeAgentCredential(
        self, request: pb.ExchangeAgentCredentialRequest, context: object
    ) -> pb.ExchangeAgentCredentialResponse:
        source = sources.of(context)
        secret, grant = credentials.parse(request.secret), None
        if secret is not None:
            async with self._db.begin(tenant=secret.tenant_id) as tx:
                grant = await exchanges.use(tx, secret, list(request.scopes), source)
        if grant is not None and not grant.problem:
            return self._minting.of_agent(grant.row, grant.scopes)
        await self._bad.admit(source)
        if secret is not None and grant is not None:
            async with self._db.begin(tenant=secret.tenant_id) as tx:
                await exchanges.refuse(tx, grant, source)
        raise exchanges.CredentialInvalid
