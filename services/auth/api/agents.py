"""The RPCs of AgentService."""

from services.auth import agents
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import agent_service_pb2 as pb, agent_service_pb2_grpc


class Agents(agent_service_pb2_grpc.AgentServiceServicer):
    """Agents of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateAgent(self, request: pb.CreateAgentRequest, context: object) -> pb.CreateAgentResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, agents.create)

    async def GetAgent(self, request: pb.GetAgentRequest, context: object) -> pb.GetAgentResponse:
        async with self._db.begin() as tx:
            return pb.GetAgentResponse(agent=await agents.get(tx, request))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: object) -> pb.ListAgentsResponse:
        page = self._pages.begin(request)
        async with self._db.begin() as tx:
            return await agents.page(tx, request, page)

    async def UpdateAgent(self, request: pb.UpdateAgentRequest, context: object) -> pb.UpdateAgentResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, agents.change)

    async def SetAgentStatus(self, request: pb.SetAgentStatusRequest, context: object) -> pb.SetAgentStatusResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, agents.set_status)
