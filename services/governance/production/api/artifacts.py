"""The RPCs of ArtifactService."""

from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

from services.governance.production import artifacts
from services.governance.production.objects import Key, Objects
from services.kit import calls, requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.production.v1 import artifact_service_pb2 as pb, artifact_service_pb2_grpc


class Artifacts(artifact_service_pb2_grpc.ArtifactServiceServicer):
    """Artifacts of the caller's tenant; the bytes pass between two transactions, never inside one."""

    def __init__(self, *, db: Database, pages: Pages, objects: Objects, lifetime: timedelta | None) -> None:
        self._db = db
        self._pages = pages
        self._objects = objects
        self._lifetime = lifetime

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[pb.UploadArtifactRequest], context: object
    ) -> pb.UploadArtifactResponse:
        header = await artifacts.begin(request_iterator)
        async with self._db.begin() as tx:
            artifact_id = await artifacts.reserve(tx, header.artifact.analysis_id)
        key = Key(calls.caller().tenant_id, header.artifact.analysis_id, artifact_id)
        stored = await self._objects.receive(key, artifacts.chunks(request_iterator), header.expected_sha256)
        header.expected_sha256 = stored.sha256  # so that a request_id stands for these bytes too
        async with self._db.begin() as tx:
            create = partial(artifacts.create, stored=stored, lifetime=self._lifetime)
            return await requests.once(tx, header, create)

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: object
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        async with self._db.begin() as tx:
            artifact = await artifacts.get(tx, request.artifact_id)
        yield pb.DownloadArtifactResponse(artifact=artifact)
        key = Key(calls.caller().tenant_id, artifact.analysis_id, artifact.id)
        async for chunk in self._objects.send(key, sha256=artifact.sha256, size=artifact.size_bytes):
            yield pb.DownloadArtifactResponse(chunk=chunk)

    async def ListArtifacts(self, request: pb.ListArtifactsRequest, context: object) -> pb.ListArtifactsResponse:
        async with self._db.begin() as tx:
            return await artifacts.page(tx, request, self._pages.begin(request))
