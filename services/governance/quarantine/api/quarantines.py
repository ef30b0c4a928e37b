"""The RPCs of QuarantineService."""

from functools import partial

from services.governance.quarantine import evidences, quarantine_requests, records
from services.governance.quarantine.cool_downs import CoolDowns
from services.governance.quarantine.resumptions import Resumptions
from services.governance.quarantine.subjects import Subjects
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.quarantine.v1 import quarantine_service_pb2 as pb, quarantine_service_pb2_grpc


class Quarantines(quarantine_service_pb2_grpc.QuarantineServiceServicer):
    """The v3 zone of the caller's tenant."""

    def __init__(
        self, *, db: Database, pages: Pages, subjects: Subjects, cool_downs: CoolDowns, resumptions: Resumptions
    ) -> None:
        self._db = db
        self._pages = pages
        self._subjects = subjects
        self._cool_downs = cool_downs
        self._resumptions = resumptions

    async def RequestQuarantine(
        self, request: pb.RequestQuarantineRequest, context: object
    ) -> pb.RequestQuarantineResponse:
        create = partial(
            quarantine_requests.create,
            evidence=evidences.read(request.evidence),
            cool_down=self._cool_downs.of(request),
            version=await self._subjects.version(request),
        )
        async with self._db.begin() as tx:
            return await requests.once(tx, request, create)

    async def ApproveQuarantine(
        self, request: pb.ApproveQuarantineRequest, context: object
    ) -> pb.ApproveQuarantineResponse:
        async with self._db.begin() as tx:
            answer = await requests.once(tx, request, quarantine_requests.approve)
        return pb.ApproveQuarantineResponse(request=await self._resumptions.complete(answer.request))

    async def RejectQuarantine(
        self, request: pb.RejectQuarantineRequest, context: object
    ) -> pb.RejectQuarantineResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, quarantine_requests.reject)

    async def GetQuarantineRequest(
        self, request: pb.GetQuarantineRequestRequest, context: object
    ) -> pb.GetQuarantineRequestResponse:
        async with self._db.begin() as tx:
            stored = await quarantine_requests.get(tx, request.quarantine_request_id)
        return pb.GetQuarantineRequestResponse(request=stored)

    async def ListQuarantineRequests(
        self, request: pb.ListQuarantineRequestsRequest, context: object
    ) -> pb.ListQuarantineRequestsResponse:
        async with self._db.begin() as tx:
            return await quarantine_requests.page(tx, request, self._pages.begin(request))

    async def GetRecord(self, request: pb.GetRecordRequest, context: object) -> pb.GetRecordResponse:
        async with self._db.begin() as tx:
            return pb.GetRecordResponse(record=await records.get(tx, request.record_id))

    async def ListRecords(self, request: pb.ListRecordsRequest, context: object) -> pb.ListRecordsResponse:
        async with self._db.begin() as tx:
            return await records.page(tx, request, self._pages.begin(request))
