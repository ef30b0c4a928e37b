"""Witnesses: somebody outside the database who has seen the super-log grow, and signs that.

`Witness` is what the service asks of one (C2SP tlog-witness, add-checkpoint); `FileWitness` is one in a folder, which
belongs on another disk, or on another machine. It keeps first and signs afterwards, and never forgets.
"""

import asyncio
import base64
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.verifier import (
    Bad,
    Checkpoint,
    Cosignature,
    compose_cosignature,
    compose_follows,
    epoch,
    extends,
)
from services.kit import clock

TAIL = 16 * 1024
"""Bytes at the end of a file that hold its last line."""


class Refused(Exception):
    """The witness does not sign; the text says why, and what to do."""

    def __init__(self, verdict: str, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.text = text


class Overtaken(Exception):
    """The witness has signed another checkpoint meanwhile; ask it for its latest, and try again."""


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint that a witness signed."""

    checkpoint: Checkpoint
    cosignature: Cosignature


class Witness(Protocol):
    """Somebody who remembers. OSError means that it cannot be asked now."""

    @property
    def name(self) -> str:
        """Its name in cosignatures."""

    async def latest(self) -> Cosigned | None:
        """Give what it signed last of this installation, or None before the first."""

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], checkpoint: Checkpoint) -> Cosignature:
        """Check that the checkpoint grew out of the one over `old_size` that it signed last, keep it, and sign it.

        Overtaken when it signed another one last; Refused when it did not grow out of it.
        """


class FileWitness:
    """A folder: the witness's own key, the keys of the log that it knows, and every checkpoint that it signed.

    The files of checkpoints only grow, one per month. Each line is on the disk before its signature is given out.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self._folder = folder
        self._origin = origin

    @property
    def name(self) -> str:
        """Its name in cosignatures."""
        return f"{self._origin}/witness/file"

    async def latest(self) -> Cosigned | None:
        """Give what it signed last."""
        return await asyncio.to_thread(self._latest)

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], checkpoint: Checkpoint) -> Cosignature:
        """Check, keep, sign."""
        return await asyncio.to_thread(self._add, old_size, proof, checkpoint)

    def _latest(self) -> Cosigned | None:
        with self._locked():
            return self._last()

    def _add(self, old_size: int, proof: Sequence[bytes], checkpoint: Checkpoint) -> Cosignature:
        with self._locked():
            last = self._last()
            self._check_key(checkpoint, first=last is None)
            _compare(last, old_size, proof, checkpoint)
            seconds = max(int(clock.now().timestamp()), last.cosignature.seconds if last else 0)
            key = self._key()
            signature = key.sign(compose_cosignature(checkpoint.note, seconds).encode())
            cosignature = Cosignature(self.name, seconds, signature, key.public_key().public_bytes_raw())
            self._keep(checkpoint, cosignature)
            return cosignature

    def _check_key(self, checkpoint: Checkpoint, *, first: bool) -> None:
        """Know the log by its key: the first that is seen, and those that an operator adds when it is rotated."""
        path = self._folder / "log_keys"
        if first and not path.exists():
            _write(path, f"{base64.b64encode(checkpoint.public_key).decode()}\n".encode())
        known = [base64.b64decode(line) for line in path.read_text(encoding="utf-8").split()]
        try:
            checkpoint.check(keys=known, origin=self._origin)
        except Bad as bad:
            raise Refused(
                "tampered", f"{bad.text}; when the log's key was rotated, add the new one to {path}"
            ) from None

    def _key(self) -> Ed25519PrivateKey:
        path = self._folder / "key"
        if not path.exists():
            key = Ed25519PrivateKey.generate()
            public = base64.b64encode(key.public_key().public_bytes_raw())
            _write(self._folder / "public_key", public + b"\n")
            _write(path, key.private_bytes_raw().hex().encode())
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text(encoding="utf-8")))

    def _keep(self, checkpoint: Checkpoint, cosignature: Cosignature) -> None:
        path = self._folder / f"{clock.now():%Y-%m}.jsonl"
        line = json.dumps(_plain(checkpoint, cosignature), separators=(",", ":")).encode() + b"\n"
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            whole = _whole(descriptor)
            if whole != os.fstat(descriptor).st_size:  # a line that was cut off; its signature was never given out
                os.ftruncate(descriptor, whole)
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, "the disk of the witness is full", str(path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            _settle(self._folder)

    def _last(self) -> Cosigned | None:
        for path in sorted(self._folder.glob("[0-9]*-[0-9]*.jsonl"), reverse=True):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                whole = _whole(descriptor)
                begin = max(0, whole - TAIL)
                lines = os.pread(descriptor, whole - begin, begin).splitlines()
            finally:
                os.close(descriptor)
            if lines:
                return _read(path, lines[-1], self._origin)
        return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out: comparing and keeping are one step."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _compare(last: Cosigned | None, old_size: int, proof: Sequence[bytes], checkpoint: Checkpoint) -> None:
    """Refuse what did not grow out of what was signed before; a super-log of a new name begins anew."""
    held = last.checkpoint if last is not None and last.checkpoint.log_id == checkpoint.log_id else None
    known = held.size if held is not None else 0
    if old_size != known:
        raise Overtaken(f"the witness has signed {known} heads of {checkpoint.log_id}, not {old_size}")
    if held is None:
        if last is not None:
            _compare_epochs(last.checkpoint, checkpoint)
        return
    if checkpoint.follows != held.follows:
        raise Refused("tampered", f"{checkpoint.log_id} refers to another super-log than what the witness signed of it")
    if checkpoint.size < held.size:
        raise Refused(
            "incomplete", f"the witness has signed {held.size} heads, and the super-log has {checkpoint.size}"
        )
    if not extends(
        old_size=held.size, old_root=held.root, size=checkpoint.size, root=checkpoint.root, hashes=list(proof)
    ):
        raise Refused("tampered", f"the super-log does not begin with the {held.size} heads that the witness signed")


def _compare_epochs(last: Checkpoint, checkpoint: Checkpoint) -> None:
    """Refuse a super-log of a new name that does not refer to the last statement that was signed of the one before."""
    if epoch(checkpoint.log_id) <= epoch(last.log_id):
        raise Refused("tampered", f"the witness has signed {last.log_id}, which came later")
    before, _, token = checkpoint.follows.rpartition(" ")
    if before != compose_follows(last, "") or not token:
        raise Refused(
            "tampered",
            f"{checkpoint.log_id} does not refer to the {last.size} heads of {last.log_id} that the witness signed",
        )


def _read(path: Path, line: bytes, origin: str) -> Cosigned:
    try:
        values = json.loads(line)
        found = Cosigned(Checkpoint.read(values["checkpoint"]), Cosignature.read(values["cosignature"]))
    except (ValueError, KeyError, TypeError, Bad) as error:
        raise Refused("tampered", f"the last line of {path} is not what the witness wrote: {error}") from None
    if not found.cosignature.holds(found.checkpoint.note):
        raise Refused("tampered", f"the last line of {path} is not signed by the witness")
    try:  # what is compared are the fields, and what was signed is the note
        found.checkpoint.check(keys=[found.checkpoint.public_key], origin=origin)
    except Bad as bad:
        raise Refused("tampered", f"the last line of {path}: {bad.text}") from None
    return found


def _plain(checkpoint: Checkpoint, cosignature: Cosignature) -> Mapping[str, Any]:
    return {
        "checkpoint": {
            "log_id": checkpoint.log_id,
            "size": checkpoint.size,
            "root_hash": checkpoint.root.hex(),
            "note": checkpoint.note,
            "signature": base64.b64encode(checkpoint.signature).decode(),
            "public_key": base64.b64encode(checkpoint.public_key).decode(),
        },
        "cosignature": {
            "witness": cosignature.witness,
            "time": cosignature.seconds,
            "signature": base64.b64encode(cosignature.signature).decode(),
            "public_key": base64.b64encode(cosignature.public_key).decode(),
        },
    }


def _whole(descriptor: int) -> int:
    """Give where the last whole line of a file ends."""
    size = os.fstat(descriptor).st_size
    begin = max(0, size - TAIL)
    return begin + os.pread(descriptor, size - begin, begin).rfind(b"\n") + 1


def _write(path: Path, data: bytes) -> None:
    """Write a small file so that it is there whole or not at all."""
    draft = path.with_name(f".{path.name}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    _settle(path.parent)


def _settle(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
