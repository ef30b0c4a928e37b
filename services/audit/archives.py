"""Archives: where the bodies of a month go that leaves the log. One zstd file of JSON lines for each retention class.

Each file has the leaf hashes of all entries of its log's month, and the bodies of its class: it proves itself against a
signed checkpoint, and a class can be deleted without touching the proofs of another. A file has its name only after it
was read back and verified.
"""

import asyncio
import fcntl
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson
import zstandard

from services.audit import classes, verifier
from services.audit.verifier import Anchors, Bad, Result

if TYPE_CHECKING:
    from services.kit.db import Row

LEVEL = 9
"""Of zstd: an archive is written once."""
WINDOW = 2**27
"""Bytes of window that a reader of one of these files may be asked to hold at most."""
SUFFIX = ".jsonl.zst"


@dataclass(frozen=True, slots=True)
class Archive:
    """A file that was written and verified."""

    retention_class: str
    name: str
    sha256: bytes
    entries: int


class Writer:
    """Writes the archives of a log's month, side by side, in one pass over its entries."""

    def __init__(self, folder: Path, name: str, header: dict[str, Any], retention_classes: Sequence[str]) -> None:
        self._folder = folder
        self._name = name
        self._files = {each: _File(folder / name / f"{each}{SUFFIX}") for each in retention_classes}
        self._header = header
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        (self._folder / self._name).mkdir(parents=True, exist_ok=True, mode=0o700)
        for each, file in self._files.items():
            self._stack.enter_context(file)
            file.write(_line(self._header | {"retention_class": each}))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, rows: "Sequence[Row]") -> None:
        """Add entries: to each file the leaf hash, to that of its class the body as well."""
        for row in rows:
            mine = classes.of(row["action"])
            leaf = {"seq": row["seq"], "leaf": row["leaf"].hex()}
            for each, file in self._files.items():
                file.write(_line(leaf | {"body": row["body"]} if each == mine else leaf))
                file.entries += each == mine

    def end(self, public_key: bytes, origin: str) -> list[Archive]:
        """Finish the files, read each one back, and give it its name; Bad, and no name, when one does not verify."""
        done: list[Archive] = []
        for each, file in self._files.items():
            file.write(_line({"entries": file.entries}))
            file.finish()
            verify(file.draft, public_key, origin)
            digest = digest_of(file.draft)
            file.publish()
            done.append(Archive(each, f"{self._name}/{each}{SUFFIX}", digest, file.entries))
        _sync(self._folder / self._name)
        return done


class _File:
    """A file under a name that says that it is not finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.draft = path.with_name(f"{path.name}.part")
        self.entries = 0

    def __enter__(self) -> Self:
        self._out = os.fdopen(os.open(self.draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(self._out, closefd=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def write(self, line: bytes) -> None:
        self._zstd.write(line)

    def finish(self) -> None:
        self._zstd.flush(zstandard.FLUSH_FRAME)
        self._out.flush()
        os.fsync(self._out.fileno())

    def publish(self) -> None:
        self.draft.replace(self._path)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Keep others from writing archives into a folder; False when somebody is at it. It ends with the process."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(descriptor)


def lines(path: Path) -> Iterator[bytes]:
    """Give the lines of an archive, or of a file that is not compressed; Bad when it is cut or was changed."""
    with path.open("rb") as raw:
        compressed = raw.read(4) == zstandard.MAGIC_NUMBER.to_bytes(4, "little")
        raw.seek(0)
        if not compressed:
            yield from verifier.read_lines(raw)
            return
        reader = zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(raw, read_across_frames=True)
        try:
            yield from verifier.read_lines(io.BufferedReader(reader, 2**20))
        except zstandard.ZstdError as error:
            raise Bad("tampered", f"the archive cannot be read: {error}") from None


def verify_file(path: Path, anchors: Anchors, progress: Callable[[int], None] = lambda _: None) -> Result:
    """Verify a file that the offline verifier reads, compressed or not."""
    try:
        return verifier.verify(lines(path), anchors, progress)
    except Bad as bad:  # what is compressed was cut or changed
        return Result(bad.verdict, bad.text)


def verify(path: Path, public_key: bytes, origin: str) -> None:
    """Raise Bad unless an archive proves itself under this key."""
    result = verify_file(path, Anchors(public_keys=[public_key], origin=origin))
    if result.verdict != "ok":
        raise Bad(result.verdict, f"{path}: {result.text}")


def digest_of(path: Path) -> bytes:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def delete(folder: Path, name: str) -> None:
    """Delete an archive; that it is gone already is as good."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name} is not below the folder of the archives")
    path.unlink(missing_ok=True)


async def aside(work: Callable[..., Any], *arguments: object) -> Any:
    """Do what waits for a disk or a processor in a thread."""
    return await asyncio.to_thread(work, *arguments)


def _sync(folder: Path) -> None:
    """Make the names in a folder, and its own name, last."""
    for each in (folder, folder.parent, folder.parent.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
