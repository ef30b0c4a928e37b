"""ArtifactService over the wire, and what becomes of its objects."""

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from services.governance.production import sweeps
from services.governance.production.objects import LARGEST, PIECE, Key, Objects
from services.governance.production.settings import ProductionSettings
from services.kit import faults
from services.kit.settings import SettingsInvalid
from tests.production.builders import Site, superuser
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role
from triptych.production.v1 import artifact_service_pb2 as pb, artifact_service_pb2_grpc
from triptych.production.v1.artifact_pb2 import Artifact, ArtifactType
from triptych.production.v1.artifact_service_pb2_grpc import ArtifactServiceStub

MIB = 1024 * 1024
DATA = os.urandom(3 * MIB + 17)


def header(analysis_id: str, data: bytes = b"", **fields: str) -> pb.UploadArtifactRequest:
    """The first message of an upload; with data, their digest is promised."""
    artifact = Artifact(
        analysis_id=analysis_id,
        type=ArtifactType.ARTIFACT_TYPE_REPORT,
        name="report.json",
        content_type="application/json",
    )
    expected = hashlib.sha256(data).hexdigest() if data else ""
    return pb.UploadArtifactRequest(
        header=pb.ArtifactHeader(artifact=artifact, **{"expected_sha256": expected} | fields)
    )


def chunks(data: bytes) -> list[pb.UploadArtifactRequest]:
    return [pb.UploadArtifactRequest(chunk=data[start : start + MIB]) for start in range(0, len(data), MIB)]


async def each(messages: Iterable[pb.UploadArtifactRequest]) -> AsyncIterator[pb.UploadArtifactRequest]:
    for message in messages:
        yield message


async def upload(site: Site, *messages: pb.UploadArtifactRequest) -> Artifact:
    return (await site.stub(ArtifactServiceStub).UploadArtifact(each(messages))).artifact


async def download(
    stub: "artifact_service_pb2_grpc.ArtifactServiceAsyncStub", artifact_id: str
) -> tuple[Artifact, list[bytes]]:
    """Read an artifact; failures are the kit's faults, as for other calls."""
    try:
        call = stub.DownloadArtifact(pb.DownloadArtifactRequest(artifact_id=artifact_id))
        messages = [message async for message in call]
    except grpc.aio.AioRpcError as error:
        raise faults.from_error(error, service="peer") from None
    return messages[0].artifact, [message.chunk for message in messages[1:]]


def folder(site: Site) -> Path:
    settings = site.suite.runtimes["production"].settings
    assert isinstance(settings, ProductionSettings)
    return settings.artifact_folder


def path(site: Site, artifact: Artifact) -> Path:
    return folder(site) / site.user.tenant_id / artifact.analysis_id / artifact.id


def files(site: Site) -> list[Path]:
    """Objects of the site's tenant, and what is on its way."""
    return [
        item
        for name in (site.user.tenant_id, "incoming")
        for item in (folder(site) / name).rglob("*")
        if item.is_file()
    ]


async def test_what_was_stored_comes_back_in_pieces(site: Site) -> None:
    analysis = await site.create()
    artifact = await upload(site, header(analysis.id, DATA), *chunks(DATA))
    assert artifact.sha256 == hashlib.sha256(DATA).hexdigest()
    assert (artifact.size_bytes, artifact.created_by) == (len(DATA), site.user.id)
    viewer = site.user.colleague(Role.ROLE_VIEWER).stub(ArtifactServiceStub)
    found, pieces = await download(viewer, artifact.id)
    assert found == artifact
    assert b"".join(pieces) == DATA
    assert max(len(piece) for piece in pieces) <= PIECE
    assert path(site, artifact).read_bytes() == DATA
    assert await site.events(f"artifact:{artifact.id}") == ["production.artifact.upload"]


async def test_an_artifact_may_be_empty(site: Site) -> None:
    artifact = await upload(site, header((await site.create()).id))
    assert artifact.size_bytes == 0
    assert await download(site.stub(ArtifactServiceStub), artifact.id) == (artifact, [])


async def test_a_broken_promise_stores_nothing(site: Site) -> None:
    analysis = await site.create()
    with pytest.raises(faults.FailedPrecondition) as caught:
        await upload(site, header(analysis.id, b"promised"), *chunks(b"something else"))
    assert caught.value.reason == "ARTIFACT_DIGEST_MISMATCH"
    assert caught.value.facts == {"sha256": hashlib.sha256(b"something else").hexdigest()}
    assert files(site) == []


async def test_more_than_the_largest_stores_nothing(site: Site) -> None:
    analysis = await site.create()
    many = [pb.UploadArtifactRequest(chunk=bytes(MIB))] * (LARGEST // MIB)
    with pytest.raises(faults.ResourceExhausted) as caught:
        await upload(site, header(analysis.id), *many, pb.UploadArtifactRequest(chunk=b"!"))
    assert caught.value.reason == "ARTIFACT_TOO_LARGE"
    assert caught.value.retry_after is None
    assert files(site) == []


async def test_a_stream_begins_with_its_only_header(site: Site) -> None:
    analysis = await site.create()
    first = header(analysis.id)
    for messages in ([], chunks(b"no header"), [first, first], [first, *chunks(b"one"), first]):
        with pytest.raises(faults.InvalidArgument) as caught:
            await upload(site, *messages)
        assert caught.value.reason == "ARTIFACT_STREAM_INVALID"
    assert files(site) == []


async def test_a_name_with_folders_is_refused(site: Site) -> None:
    first = header((await site.create()).id)
    first.header.artifact.name = "../../etc/passwd"
    with pytest.raises(faults.InvalidArgument) as caught:
        await upload(site, first)
    assert caught.value.reason == "REQUEST_INVALID"


async def test_a_repeated_upload_is_one_artifact_and_other_bytes_are_refused(site: Site) -> None:
    analysis = await site.create()
    first = header(analysis.id, request_id=str(uuid.uuid4()), expected_sha256="")
    artifact = await upload(site, first, *chunks(b"bytes"))
    assert await upload(site, first, *chunks(b"bytes")) == artifact
    with pytest.raises(faults.InvalidArgument) as caught:
        await upload(site, first, *chunks(b"other"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    listed = await site.stub(ArtifactServiceStub).ListArtifacts(pb.ListArtifactsRequest(analysis_id=analysis.id))
    assert list(listed.artifacts) == [artifact]


async def test_damage_is_found_and_the_last_piece_is_held_back(site: Site) -> None:
    artifact = await upload(site, header((await site.create()).id), *chunks(DATA))
    file = path(site, artifact)
    stub = site.stub(ArtifactServiceStub)
    flipped = bytearray(DATA)
    flipped[len(DATA) // 2] ^= 1
    for damaged in (bytes(flipped), DATA[:-1], DATA + b"x", b"", None):
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        got = 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012 - what arrives before the failure counts
            async for message in stub.DownloadArtifact(pb.DownloadArtifactRequest(artifact_id=artifact.id)):
                got += len(message.chunk)
        fault = faults.from_error(caught.value, service="peer")
        assert (type(fault), fault.reason) == (faults.DataLoss, "ARTIFACT_CORRUPT")
        assert got < len(DATA)


async def test_artifacts_are_listed_oldest_first_in_pages(site: Site) -> None:
    analysis = await site.create()
    made = [await upload(site, header(analysis.id), *chunks(bytes([n]))) for n in range(3)]
    stub = site.stub(ArtifactServiceStub)
    request = pb.ListArtifactsRequest(analysis_id=analysis.id, page_size=2)
    first = await stub.ListArtifacts(request)
    request.page_token = first.next_page_token
    second = await stub.ListArtifacts(request)
    assert [*first.artifacts, *second.artifacts] == made
    assert second.next_page_token == ""


async def test_another_tenants_artifacts_look_like_none(site: Site, suite: Suite) -> None:
    analysis = await site.create()
    artifact = await upload(site, header(analysis.id), *chunks(b"ours"))
    stranger = Site(suite, suite.person(Role.ROLE_ADMIN), site.project_id)
    stub = stranger.stub(ArtifactServiceStub)
    with pytest.raises(faults.NotFound) as one:
        await download(stub, artifact.id)
    assert one.value.reason == "ARTIFACT_NOT_FOUND"
    with pytest.raises(faults.NotFound) as many:
        await stub.ListArtifacts(pb.ListArtifactsRequest(analysis_id=analysis.id))
    assert many.value.reason == "ANALYSIS_NOT_FOUND"
    with pytest.raises(faults.NotFound) as foreign:
        await upload(stranger, header(analysis.id), *chunks(b"theirs"))
    assert foreign.value.reason == "ANALYSIS_NOT_FOUND"
    assert files(stranger) == []


async def test_a_viewer_uploads_nothing(site: Site) -> None:
    viewer = Site(site.suite, site.user.colleague(Role.ROLE_VIEWER), site.project_id)
    with pytest.raises(faults.PermissionDenied):
        await upload(viewer, header((await site.create()).id))


async def test_the_sweep_deletes_old_objects_without_a_row_and_nothing_else(site: Site) -> None:
    analysis = await site.create()
    kept = await upload(site, header(analysis.id), *chunks(b"kept"))
    runtime = site.suite.runtimes["production"]
    objects = Objects(runtime.settings)  # type: ignore[arg-type]
    orphan = folder(site) / site.user.tenant_id / analysis.id / str(uuid.uuid4())
    young = orphan.with_name(str(uuid.uuid4()))
    abandoned = folder(site) / "incoming" / str(uuid.uuid4())
    staged = folder(site) / "incoming" / f"{uuid.uuid4()}#1"  # what a killed process leaves half-written
    for file in (orphan, young, abandoned, staged):
        file.write_bytes(b"?")
    for file in (orphan, abandoned, staged, path(site, kept)):
        os.utime(file, (time.time() - 7200, time.time() - 7200))
    await asyncio.gather(*(sweeps.delete_orphans(runtime.db, objects, timedelta(hours=1)) for _ in range(2)))
    assert sorted(files(site)) == sorted([path(site, kept), young])


async def test_an_expired_artifact_is_gone_and_its_object_follows(site: Site) -> None:
    analysis = await site.create()
    artifact = await upload(site, header(analysis.id), *chunks(b"for a while"))
    async with superuser(site.suite) as connection:
        await connection.execute(
            "UPDATE artifacts SET expire_time = now() - interval '1 day' WHERE id = $1", uuid.UUID(artifact.id)
        )
    with pytest.raises(faults.NotFound):
        await download(site.stub(ArtifactServiceStub), artifact.id)
    os.utime(path(site, artifact), (0, 0))
    runtime = site.suite.runtimes["production"]
    await sweeps.delete_orphans(runtime.db, Objects(runtime.settings), timedelta(hours=1))  # type: ignore[arg-type]
    assert not path(site, artifact).exists()
    assert (await site.events(f"artifact:{artifact.id}"))[-1] == "production.artifact.expire"


async def test_an_object_store_is_named_by_its_url(suite: Suite) -> None:
    settings = ProductionSettings.of(suite.values("production", artifact_url="memory:///", artifact_days=3))
    objects = Objects(settings)
    key = Key(*(str(uuid.uuid4()) for _ in range(3)))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(DATA), MIB):
            yield DATA[start : start + MIB]

    stored = await objects.receive(key, pieces(), "")
    sent = [piece async for piece in objects.send(key, sha256=stored.sha256, size=stored.size)]
    assert b"".join(sent) == DATA


@pytest.mark.parametrize("changes", [{"orphan_seconds": 60.0}, {"artifact_days": -1}])
def test_settings_that_would_lose_artifacts_stop_the_start(suite: Suite, changes: dict[str, float]) -> None:
    with pytest.raises(SettingsInvalid):
        ProductionSettings.of(suite.values("production", **changes))
