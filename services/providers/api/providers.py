"""The RPCs of ProviderService."""

from functools import partial

from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from services.providers import amendments, prices, providers
from triptych.providers.v1 import provider_service_pb2 as pb, provider_service_pb2_grpc


class Providers(provider_service_pb2_grpc.ProviderServiceServicer):
    """Providers of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages, allow_loopback: bool) -> None:
        self._db = db
        self._pages = pages
        self._create = partial(providers.create, allow_loopback=allow_loopback)
        self._revise = partial(amendments.revise, allow_loopback=allow_loopback)

    async def CreateProvider(self, request: pb.CreateProviderRequest, context: object) -> pb.CreateProviderResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, self._create)

    async def GetProvider(self, request: pb.GetProviderRequest, context: object) -> pb.GetProviderResponse:
        async with self._db.begin() as tx:
            return pb.GetProviderResponse(provider=await providers.get(tx, request.provider_id))

    async def ListProviders(self, request: pb.ListProvidersRequest, context: object) -> pb.ListProvidersResponse:
        async with self._db.begin() as tx:
            return await providers.page(tx, request, self._pages.begin(request))

    async def UpdateProvider(self, request: pb.UpdateProviderRequest, context: object) -> pb.UpdateProviderResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, self._revise)

    async def ArchiveProvider(self, request: pb.ArchiveProviderRequest, context: object) -> pb.ArchiveProviderResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, amendments.archive)

    async def SetProviderPrice(
        self, request: pb.SetProviderPriceRequest, context: object
    ) -> pb.SetProviderPriceResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, amendments.price)

    async def ListProviderPrices(
        self, request: pb.ListProviderPricesRequest, context: object
    ) -> pb.ListProviderPricesResponse:
        async with self._db.begin() as tx:
            await providers.row(tx, request.provider_id)
            return await prices.page(tx, request, self._pages.begin(request))
