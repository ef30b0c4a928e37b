"""The RPCs of HealthService."""

from collections.abc import AsyncIterator

from services.kit.db import Database
from services.kit.paging import Pages
from services.providers import healths, watches
from triptych.providers.v1 import health_service_pb2 as pb, health_service_pb2_grpc


class Health(health_service_pb2_grpc.HealthServiceServicer):
    """How well the providers of the caller's tenant do."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def ListProviderHealth(
        self, request: pb.ListProviderHealthRequest, context: object
    ) -> pb.ListProviderHealthResponse:
        async with self._db.begin() as tx:
            return await healths.page(tx, self._pages.begin(request))

    async def WatchProviderHealth(
        self, request: pb.WatchProviderHealthRequest, context: object
    ) -> AsyncIterator[pb.WatchProviderHealthResponse]:
        known: set[tuple[str, str]] = set()
        async for _ in watches.rounds(request.seconds):
            async with self._db.begin() as tx:
                found = await healths.watched(tx)
            for mark, health in found:
                if mark not in known:
                    yield pb.WatchProviderHealthResponse(provider_health=health)
            known = {mark for mark, _ in found}
