"""The bytes of artifacts, in a folder or an object store: streamed in and out with bounded memory, never believed.

A key is made of ids (tenant/analysis/artifact), never of what a caller named. Bytes arrive under `incoming/` and get
their key only when they are complete and right. On the way out the digest is computed again, and the last piece is held
back until it fits: whoever has all of an artifact has the right one.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from services.governance.production.settings import ProductionSettings
from services.kit import faults
from services.kit.faults import DataLoss, FailedPrecondition, ResourceExhausted

LARGEST = 64 * 1024 * 1024
PIECE = 256 * 1024
BUFFER = 5 * 1024 * 1024
"""Bytes that an upload holds in memory; S3 takes no smaller part."""
INCOMING = "incoming"
LISTED = 500


class ArtifactDigestMismatch(FailedPrecondition):
    """What arrived is not what the sender promised."""


class ArtifactTooLarge(ResourceExhausted):
    """More than 64 MiB."""

    retry_after = None  # type: ignore[assignment]  # it will not shrink


class ArtifactCorrupt(DataLoss):
    """The stored bytes are not those that were stored."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that is complete and durable."""

    artifact_id: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Key:
    """Where an object is."""

    tenant_id: str
    analysis_id: str
    artifact_id: str

    def __str__(self) -> str:
        return f"{self.tenant_id}/{self.analysis_id}/{self.artifact_id}"


class Objects:
    """The store of one service."""

    def __init__(self, settings: ProductionSettings) -> None:
        self._folder: Path | None = None if settings.artifact_url else settings.artifact_folder
        self._store = _open(settings)

    async def receive(self, key: Key, chunks: AsyncIterator[bytes], expected_sha256: str) -> Stored:
        """Store what arrives, or nothing."""
        incoming = f"{INCOMING}/{key.artifact_id}"
        digest, size = hashlib.sha256(), 0
        with _store_failures():
            async with obstore.open_writer_async(
                self._store, incoming, buffer_size=BUFFER, max_concurrency=1
            ) as writer:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > LARGEST:
                        raise ArtifactTooLarge(f"an artifact has at most {LARGEST} bytes; split it", limit=LARGEST)
                    digest.update(chunk)
                    await writer.write(chunk)
            if expected_sha256 not in ("", digest.hexdigest()):
                await obstore.delete_async(self._store, incoming)
                raise ArtifactDigestMismatch(
                    "what arrived has another SHA-256 than expected; send it again", sha256=digest.hexdigest()
                )
            await obstore.rename_async(self._store, incoming, str(key))
        if self._folder is not None:
            await asyncio.to_thread(_sync, self._folder / str(key))
        return Stored(key.artifact_id, digest.hexdigest(), size)

    async def send(self, key: Key, *, sha256: str, size: int) -> AsyncIterator[bytes]:
        """Give the bytes in pieces; what is not what was stored ends as ARTIFACT_CORRUPT before its last piece."""
        digest, seen, held = hashlib.sha256(), 0, b""
        async for piece in self._read(key):
            seen += len(piece)
            digest.update(piece)
            if seen > size:
                break
            if held:
                yield held
            held = piece
        if digest.hexdigest() != sha256 or seen != size:
            raise ArtifactCorrupt(
                "the stored bytes are damaged; do not use what has come so far", artifact_id=key.artifact_id
            )
        if held:
            yield held

    async def old(self, age: timedelta) -> AsyncIterator[list[Key]]:
        """Give the keys of objects older than this, some at a time; unfinished uploads as old are deleted."""
        before = datetime.now(UTC) - age
        with _store_failures():
            stream: Any = obstore.list(self._store, chunk_size=LISTED)
            async for batch in stream:
                paths = [str(item["path"]) for item in batch if item["last_modified"] < before]
                await self._delete([path for path in paths if path.startswith(f"{INCOMING}/")])
                yield [Key(*path.split("/")) for path in paths if path.count("/") == 2]
        if self._folder is not None:
            await asyncio.to_thread(_delete_staged, self._folder / INCOMING, before.timestamp())

    async def remove(self, keys: list[Key]) -> None:
        """Delete objects."""
        with _store_failures():
            await self._delete([str(key) for key in keys])

    async def _delete(self, paths: list[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):  # another replica sweeps too
                await obstore.delete_async(self._store, path)

    async def _read(self, key: Key) -> AsyncIterator[bytes]:
        try:
            with _store_failures():
                found = await obstore.get_async(self._store, str(key))
                async for block in found.stream(min_chunk_size=PIECE):
                    data = memoryview(block)
                    for start in range(0, len(data), PIECE):
                        yield bytes(data[start : start + PIECE])
        except FileNotFoundError:
            return  # nothing is there, which is not what was stored


class _store_failures:  # noqa: N801 - reads as the thing it handles
    """Turns what the store says into a fault: it is a server that may be down, or a disk that may be full."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (BaseError, OSError)) and not isinstance(error, FileNotFoundError):
            raise faults.DependencyUnavailable(
                "the artifact store does not work now; retry", dependency="artifacts"
            ) from error


def _open(settings: ProductionSettings) -> ObjectStore:
    if not settings.artifact_url:
        return LocalStore(settings.artifact_folder, mkdir=True)
    options = {"aws_endpoint": settings.artifact_endpoint, "aws_region": settings.artifact_region}
    if settings.artifact_key_id_file is not None:
        options["aws_access_key_id"] = settings.secret(settings.artifact_key_id_file)
        options["aws_secret_access_key"] = settings.secret(settings.artifact_secret_file)
    given: dict[str, Any] = {name: value for name, value in options.items() if value}
    return from_url(settings.artifact_url, **given)


def _sync(path: Path) -> None:
    """Bring a file and the folders that lead to it to the disk; the store itself leaves that to the system."""
    for target in (path, *list(path.parents)[:3]):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _delete_staged(folder: Path, before: float) -> None:
    """Delete what a killed process left half-written: the store hides such files (`name#1`), so it cannot list them."""
    for path in folder.glob("*#*"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()
