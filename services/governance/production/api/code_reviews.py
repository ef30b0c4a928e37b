"""The RPCs of CodeReviewService."""

from services.governance.production import code_reviews
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.production.v1 import code_review_service_pb2 as pb, code_review_service_pb2_grpc


class CodeReviews(code_review_service_pb2_grpc.CodeReviewServiceServicer):
    """Results of code reviews of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def RecordCodeReview(
        self, request: pb.RecordCodeReviewRequest, context: object
    ) -> pb.RecordCodeReviewResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, code_reviews.record)

    async def ListCodeReviews(self, request: pb.ListCodeReviewsRequest, context: object) -> pb.ListCodeReviewsResponse:
        async with self._db.begin() as tx:
            return await code_reviews.page(tx, request, self._pages.begin(request))
