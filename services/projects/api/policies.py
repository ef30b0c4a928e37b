"""The RPCs of PolicyService. The sandbox is asked before a transaction begins, or after it has ended."""

from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from services.projects import policies, project_policies
from services.projects.sandbox.supervisors import Sandbox
from triptych.projects.v1 import policy_service_pb2 as pb, policy_service_pb2_grpc


class Policies(policy_service_pb2_grpc.PolicyServiceServicer):
    """Policies of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages, sandbox: Sandbox) -> None:
        self._db = db
        self._pages = pages
        self._sandbox = sandbox

    async def CreatePolicy(self, request: pb.CreatePolicyRequest, context: object) -> pb.CreatePolicyResponse:
        policies.admit(await self._sandbox.check(request.policy.rego))
        async with self._db.begin() as tx:
            return await requests.once(tx, request, policies.create)

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: object) -> pb.GetPolicyResponse:
        async with self._db.begin() as tx:
            return pb.GetPolicyResponse(policy=await policies.get(tx, request.policy_id))

    async def ListPolicies(self, request: pb.ListPoliciesRequest, context: object) -> pb.ListPoliciesResponse:
        async with self._db.begin() as tx:
            return await policies.page(tx, request, self._pages.begin(request))

    async def UpdatePolicy(self, request: pb.UpdatePolicyRequest, context: object) -> pb.UpdatePolicyResponse:
        if policies.brings_source(request):
            policies.admit(await self._sandbox.check(request.policy.rego))
        async with self._db.begin() as tx:
            return await requests.once(tx, request, policies.change)

    async def AttachPolicy(self, request: pb.AttachPolicyRequest, context: object) -> pb.AttachPolicyResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, project_policies.attach)

    async def DetachPolicy(self, request: pb.DetachPolicyRequest, context: object) -> pb.DetachPolicyResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, project_policies.detach)

    async def EvaluatePolicies(
        self, request: pb.EvaluatePoliciesRequest, context: object
    ) -> pb.EvaluatePoliciesResponse:
        given = project_policies.read_input(request.input)
        async with self._db.begin() as tx:
            rows = await project_policies.active(tx, request.project_id)
        return await project_policies.evaluate(self._sandbox, rows, given)
