"""The RPCs of PromotionService."""

from services.governance.experiments import evaluations, experiments, promotions, subjects
from services.governance.experiments.completions import Completions
from services.governance.experiments.peers import Peers
from services.governance.experiments.settings import ExperimentsSettings
from services.kit import calls, clock, requests
from services.kit.db import Database, Transaction
from services.kit.paging import Pages
from triptych.experiments.v1 import promotion_pb2, promotion_service_pb2 as pb, promotion_service_pb2_grpc


class Promotions(promotion_service_pb2_grpc.PromotionServiceServicer):
    """Promotions of the caller's tenant. Neighbours are asked before a transaction, never in one."""

    def __init__(
        self, *, db: Database, pages: Pages, peers: Peers, completions: Completions, settings: ExperimentsSettings
    ) -> None:
        self._db = db
        self._pages = pages
        self._peers = peers
        self._completions = completions
        self._settings = settings

    async def RequestPromotion(
        self, request: pb.RequestPromotionRequest, context: object
    ) -> pb.RequestPromotionResponse:
        rules = self._rules()
        async with self._db.begin() as tx:
            evaluation = await evaluations.row_of(tx, request.evaluation_id)
            experiment = await experiments.row_of(tx, str(evaluation["experiment_id"]))
        surroundings = None
        if evaluation["effective_verdict"] == "pass":
            case = subjects.case(evaluation, experiment, rules.now, requester=calls.caller().id)
            surroundings = await self._peers.surroundings(str(evaluation["project_id"]), case)

        async def ask(tx: Transaction, request: pb.RequestPromotionRequest) -> pb.RequestPromotionResponse:
            return await promotions.request(tx, request, surroundings, rules)

        async with self._db.begin() as tx:
            return await requests.once(tx, request, ask)

    async def ApprovePromotion(
        self, request: pb.ApprovePromotionRequest, context: object
    ) -> pb.ApprovePromotionResponse:
        async with self._db.begin() as tx:
            promotion = await promotions.row_of(tx, request.promotion_id)
            evaluation = await evaluations.row_of(tx, str(promotion["evaluation_id"]))
            experiment = await experiments.row_of(tx, str(promotion["experiment_id"]))
        surroundings = None
        if promotion["state"] == "pending":
            requester, approver = str(promotion["requested_by"]), calls.caller().id
            case = subjects.case(evaluation, experiment, clock.now(), requester=requester, approver=approver)
            surroundings = await self._peers.surroundings(str(promotion["project_id"]), case)

        async def approve(tx: Transaction, request: pb.ApprovePromotionRequest) -> pb.ApprovePromotionResponse:
            return await promotions.approve(tx, request, surroundings)

        async with self._db.begin() as tx:
            answer = await requests.once(tx, request, approve)
        if answer.promotion.state != promotion_pb2.PROMOTION_STATE_APPROVED:
            return answer
        await self._completions.attempt(calls.caller().tenant_id, request.promotion_id)
        async with self._db.begin() as tx:
            return pb.ApprovePromotionResponse(promotion=await promotions.get(tx, request.promotion_id))

    async def RejectPromotion(self, request: pb.RejectPromotionRequest, context: object) -> pb.RejectPromotionResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, promotions.reject)

    async def GetPromotion(self, request: pb.GetPromotionRequest, context: object) -> pb.GetPromotionResponse:
        async with self._db.begin() as tx:
            return pb.GetPromotionResponse(promotion=await promotions.get(tx, request.promotion_id))

    async def ListPromotions(self, request: pb.ListPromotionsRequest, context: object) -> pb.ListPromotionsResponse:
        async with self._db.begin() as tx:
            return await promotions.page(tx, request, self._pages.begin(request))

    def _rules(self) -> subjects.Rules:
        settings = self._settings
        return subjects.Rules(
            settings.required_approvals, settings.promotion_days, settings.evaluation_days, clock.now()
        )
