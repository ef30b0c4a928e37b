"""The RPCs of QuotaService."""

from services.kit import requests
from services.kit.db import Database
from services.providers import balances, owners, quotas
from services.providers.admissions import Admissions
from services.providers.bookings import Bookings
from triptych.providers.v1 import quota_service_pb2 as pb, quota_service_pb2_grpc


class Quotas(quota_service_pb2_grpc.QuotaServiceServicer):
    """Quotas of the caller's tenant."""

    def __init__(self, *, db: Database, admissions: Admissions, bookings: Bookings) -> None:
        self._db = db
        self._admissions = admissions
        self._bookings = bookings

    async def GetQuota(self, request: pb.GetQuotaRequest, context: object) -> pb.GetQuotaResponse:
        owner = owners.of(request.owner) if request.HasField("owner") else owners.caller()
        async with self._db.begin() as tx:
            quota, limits = await quotas.get(tx, owner)
            return pb.GetQuotaResponse(quota=quota, windows=await balances.standing(tx, owner, limits))

    async def SetQuota(self, request: pb.SetQuotaRequest, context: object) -> pb.SetQuotaResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, quotas.replace)

    async def ReserveQuota(self, request: pb.ReserveQuotaRequest, context: object) -> pb.ReserveQuotaResponse:
        return await self._admissions.reserve(request)

    async def CommitReservation(
        self, request: pb.CommitReservationRequest, context: object
    ) -> pb.CommitReservationResponse:
        return await self._bookings.commit(request)

    async def ReleaseReservation(
        self, request: pb.ReleaseReservationRequest, context: object
    ) -> pb.ReleaseReservationResponse:
        return await self._bookings.release(request)
