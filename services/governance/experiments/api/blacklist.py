"""The RPCs of BlacklistService."""

from services.governance.experiments import blacklist, blocks
from services.governance.experiments.completions import Completions
from services.kit import calls, requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.experiments.v1 import blacklist_service_pb2 as pb, blacklist_service_pb2_grpc


class Blacklist(blacklist_service_pb2_grpc.BlacklistServiceServicer):
    """The blacklist of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages, completions: Completions) -> None:
        self._db = db
        self._pages = pages
        self._completions = completions

    async def GetBlacklistEntry(
        self, request: pb.GetBlacklistEntryRequest, context: object
    ) -> pb.GetBlacklistEntryResponse:
        async with self._db.begin() as tx:
            return pb.GetBlacklistEntryResponse(entry=await blacklist.get(tx, request.configuration_hash))

    async def ListBlacklistEntries(
        self, request: pb.ListBlacklistEntriesRequest, context: object
    ) -> pb.ListBlacklistEntriesResponse:
        async with self._db.begin() as tx:
            return await blacklist.page(tx, self._pages.begin(request))

    async def BlockConfiguration(
        self, request: pb.BlockConfigurationRequest, context: object
    ) -> pb.BlockConfigurationResponse:
        # What projects may have carried out already is brought to its end first: it must not be called rejected.
        await self._completions.settle(calls.caller().tenant_id, request.configuration_hash)
        async with self._db.begin() as tx:
            return await requests.once(tx, request, blocks.block)

    async def ReviewConfiguration(
        self, request: pb.ReviewConfigurationRequest, context: object
    ) -> pb.ReviewConfigurationResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, blacklist.review)
