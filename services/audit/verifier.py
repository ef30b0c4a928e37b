"""Verifies an export of the audit log without a database, a network or the rest of Triptych.

    python verifier.py FILE [--public-key BASE64 …] [--checkpoint FILE …] [--receipts FILE …]

One file that needs Python's standard library and `cryptography`. It answers ok (0), tampered (1), unanchored (2) or
incomplete (3). It never says ok on the word of the file alone: a public key or a checkpoint has to come from elsewhere.
"""

import argparse
import base64
import filecmp
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "triptych-audit-export/1"
ORIGIN = "triptych.local"
GENESIS = "0" * 64
"""`prev_hash` of the first entry."""
CHECKPOINT_NAMES = frozenset(
    ("log_id", "size", "root_hash", "note", "signature", "key_version", "public_key", "signed_at")
)
"""Fields of an export's checkpoint. All but key_version are in the signed note, or prove it."""
EXIT_CODES = {"ok": 0, "tampered": 1, "unanchored": 2, "incomplete": 3}
MISUSED = 64
"""Exit code when there is nothing to verify: wrong arguments, an unreadable file."""


def leaf_hash(body: str) -> bytes:
    """Hash an entry as a leaf (RFC 6962)."""
    return hashlib.sha256(b"\x00" + body.encode()).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash an inner node of the tree (RFC 6962)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def log_name(tenant_id: str) -> str:
    """Name a log: the tenant, or `system`."""
    return "system" if not tenant_id.strip("0-") else tenant_id


class Bad(Exception):
    """The log does not hold; the text names the first bad place."""

    def __init__(self, verdict: str, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.text = text


class Frontier:
    """The right edge of a growing Merkle tree: enough to give the root, however many leaves went by."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[tuple[int, bytes]] = []

    def push(self, leaf: bytes, height: int = 0) -> None:
        """Add a leaf, or a whole subtree of 2^height leaves, which the size before must be a multiple of."""
        self.size += 1 << height
        while self._peaks and self._peaks[-1][0] == height:
            leaf = node_hash(self._peaks.pop()[1], leaf)
            height += 1
        self._peaks.append((height, leaf))

    def root(self) -> bytes:
        """Give the root; that of the empty tree is the hash of nothing."""
        if not self._peaks:
            return hashlib.sha256(b"").digest()
        root = self._peaks[-1][1]
        for _, peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root


class Numbers:
    """The numbers that each source gave its events: from 1, without gaps, in any order."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._early: dict[str, set[int]] = {}

    def take(self, source: str, number: int) -> None:
        """Note one number; the same one twice is a defect."""
        last, early = self._last.get(source, 0), self._early.setdefault(source, set())
        if number <= last or number in early:
            raise Bad("incomplete", f"{source} gave the number {number} to two events")
        early.add(number)
        while last + 1 in early:
            last += 1
            early.discard(last)
        self._last[source] = last

    def gap(self) -> str:
        """Say what is missing; empty when nothing is."""
        for source, early in sorted(self._early.items()):
            if early:
                first = self._last[source] + 1
                return f"{source} has reported {min(early)}, and its event {first} never arrived"
        return ""


class Walk:
    """Takes the entries of one log in order; each must fit its leaf, its place and the entry before it."""

    def __init__(self, log_id: str) -> None:
        self.tree = Frontier()
        self.last_leaf = GENESIS
        self._log_id = log_id
        self._recorded_at = ""
        self._numbers = Numbers()

    @property
    def size(self) -> int:
        """Entries taken so far."""
        return self.tree.size

    def take(self, seq: int, body: str, leaf: str) -> dict[str, Any]:
        """Take one entry and give its content, or raise Bad."""
        if seq != self.size:
            raise Bad("tampered", f"entry {self.size} is missing: entry {seq} comes in its place")
        computed = leaf_hash(body)
        envelope = _envelope(seq, body)
        where = f"entry {seq} (event {envelope.get('event_id', '?')})"
        if computed.hex() != leaf:
            raise Bad("tampered", f"{where}: its body does not have its leaf hash")
        if envelope.get("seq") != seq or envelope.get("log_id") != self._log_id:
            raise Bad("tampered", f"{where}: its body belongs elsewhere")
        if envelope.get("prev_hash") != self.last_leaf:
            raise Bad("tampered", f"{where}: it does not follow the entry before it")
        if str(envelope.get("recorded_at", "")) <= self._recorded_at:
            raise Bad("tampered", f"{where}: it was recorded before the entry before it")
        self._recorded_at = str(envelope["recorded_at"])
        self.last_leaf = leaf
        self.tree.push(computed)
        self._note(envelope, where)
        return envelope

    def gap(self) -> str:
        """Say which number of which source is missing; empty when none is."""
        return self._numbers.gap()

    def _note(self, envelope: Mapping[str, Any], where: str) -> None:
        try:
            self._numbers.take(str(envelope.get("source")), int(envelope.get("source_seq", 0)))
        except Bad as bad:
            raise Bad(bad.verdict, f"{where}: {bad.text}") from None


def _envelope(seq: int, body: str) -> dict[str, Any]:
    try:
        envelope = json.loads(body)
    except ValueError:
        envelope = None
    if not isinstance(envelope, dict):
        raise Bad("tampered", f"entry {seq}: its body is no JSON object")
    return envelope


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement of what a log was at a moment."""

    log_id: str
    size: int
    root: bytes
    note: str
    signature: bytes
    public_key: bytes

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Checkpoint":
        """Read the object of an export's last line."""
        try:
            checkpoint = cls(
                log_id=str(values["log_id"]),
                size=int(values["size"]),
                root=_unhex(values["root_hash"]),
                note=str(values["note"]),
                signature=_unbase64(values["signature"]),
                public_key=_unbase64(values["public_key"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Bad("tampered", f"the checkpoint is malformed: {error!r}") from None
        if "signed_at" in values and checkpoint.note.split("\n")[3:4] != [values["signed_at"]]:
            raise Bad("tampered", "the time beside the checkpoint (signed_at) is not the one that was signed")
        return checkpoint

    def check(self, *, keys: Iterable[bytes], origin: str = ORIGIN) -> None:
        """Raise Bad unless the note says what the fields say and one of the keys signed it."""
        lines = self.note.split("\n")
        stated = [f"{origin}/{self.log_id}", str(self.size), base64.b64encode(self.root).decode()]
        if lines[:3] != stated or len(lines) != 5 or lines[4]:
            raise Bad("tampered", f"the checkpoint over {self.size} entries does not say what was signed")
        if not any(_signed(key, self.signature, self.note) for key in keys):
            raise Bad("tampered", f"the checkpoint over {self.size} entries is not signed by a trusted key")

    @property
    def signed_at(self) -> str:
        """When it was signed, as the note has it."""
        return self.note.split("\n")[3]


def compose_note(*, origin: str, log_id: str, size: int, root: bytes, signed_at: str) -> str:
    """Write the text that is signed (C2SP tlog-checkpoint, the time as its extension line)."""
    return f"{origin}/{log_id}\n{size}\n{base64.b64encode(root).decode()}\n{signed_at}\n"


def _unhex(text: str) -> bytes:
    """Read hexadecimal digits in their one spelling; another means that somebody changed them."""
    value = bytes.fromhex(text)
    if value.hex() != text:
        raise ValueError(f"{text} is not written as the service writes it")
    return value


def _unbase64(text: str) -> bytes:
    """Read Base64 in its one spelling: the last digit has bits that no byte needs."""
    value = base64.b64decode(text, validate=True)
    if base64.b64encode(value).decode() != text:
        raise ValueError(f"{text} is not written as the service writes it")
    return value


def _signed(key: bytes, signature: bytes, note: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, note.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def includes(*, leaf: bytes, index: int, size: int, hashes: Sequence[bytes], root: bytes) -> bool:
    """Verify an inclusion proof (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, computed = index, size - 1, leaf
    for sibling in hashes:
        if last == 0:
            return False
        if place & 1 or place == last:
            computed = node_hash(sibling, computed)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and computed == root


def extends(*, old_size: int, old_root: bytes, size: int, root: bytes, hashes: Sequence[bytes]) -> bool:
    """Verify a consistency proof (RFC 9162 section 2.1.4.2): the newer tree begins with the older."""
    if not 0 < old_size <= size:
        return False
    if old_size == size:
        return not hashes and old_root == root
    path = list(hashes) if old_size & (old_size - 1) else [old_root, *hashes]
    place, last = old_size - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    if not path:
        return False
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and older == old_root and newer == root


@dataclass(frozen=True, slots=True)
class Anchors:
    """What the reader holds that did not come with the file."""

    public_keys: Sequence[bytes] = ()
    checkpoints: Sequence[Checkpoint] = ()
    """Checkpoints seen earlier; the file must contain what they cover."""
    receipts: Mapping[int, str] = field(default_factory=dict)
    """Position and leaf hash of entries, as an emitter keeps them."""
    origin: str = ORIGIN


@dataclass(frozen=True, slots=True)
class Result:
    """One of the four answers."""

    verdict: str
    text: str
    size: int = 0
    public_key: bytes = b""


def verify(
    lines: Iterable[bytes], anchors: Anchors | None = None, progress: Callable[[int], None] = lambda _: None
) -> Result:
    """Verify an export, line by line, in memory that does not grow with it."""
    anchors = anchors or Anchors()
    export = _Export(anchors)
    try:
        for value in _values(lines):
            export.take(value)
            progress(export.size)
        return export.end()
    except Bad as bad:
        return Result(bad.verdict, bad.text, export.size)


class _Export:
    """An export that is being read."""

    def __init__(self, anchors: Anchors) -> None:
        self._anchors = anchors
        self._held = {checkpoint.size: checkpoint for checkpoint in anchors.checkpoints}
        self._walk: Walk | None = None
        self._log_id = ""
        self._origin = ""
        self._checkpoint: Checkpoint | None = None

    @property
    def size(self) -> int:
        return self._walk.size if self._walk else 0

    def take(self, value: Mapping[str, Any]) -> None:
        if self._walk is None:
            self._begin(value)
        elif self._checkpoint is not None:
            raise Bad("tampered", "something follows the checkpoint, which is the last line of an export")
        elif "checkpoint" in value:
            self._checkpoint = Checkpoint.read(value["checkpoint"])
            if unknown := value["checkpoint"].keys() - CHECKPOINT_NAMES:
                raise Bad("tampered", f"the checkpoint has a field that no export has: {min(unknown)!r}")
        else:
            self._entry(self._walk, value)

    def end(self) -> Result:
        if self._walk is None:
            raise Bad("incomplete", "the file is empty")
        if self._checkpoint is None:
            raise Bad("incomplete", f"the file ends after {self.size} entries, before its checkpoint")
        self._compare(self._walk, self._checkpoint)
        if gap := self._walk.gap():
            raise Bad("incomplete", gap)
        return self._answer(self._checkpoint)

    def _begin(self, header: Mapping[str, Any]) -> None:
        if header.get("format") != FORMAT:
            raise Bad("incomplete", f"the first line is not the header of an export ({FORMAT})")
        self._log_id = str(header.get("log_id"))
        self._origin = str(header.get("origin"))
        for held in self._anchors.checkpoints:
            held.check(keys=self._anchors.public_keys or [held.public_key], origin=self._anchors.origin)
            if held.log_id != self._log_id:
                raise Bad("tampered", f"the file is of the log {self._log_id}, the held checkpoint of {held.log_id}")
        self._walk = Walk(self._log_id)

    def _entry(self, walk: Walk, value: Mapping[str, Any]) -> None:
        seq, body, leaf = value.get("seq"), value.get("body"), value.get("leaf")
        if not isinstance(seq, int) or not isinstance(body, str) or not isinstance(leaf, str):
            raise Bad("tampered", f"the line of entry {walk.size} is malformed")
        walk.take(seq, body, leaf)
        if self._anchors.receipts.get(seq, leaf) != leaf:
            raise Bad("tampered", f"entry {seq} is not the one that its emitter has a receipt for")
        held = self._held.get(walk.size)
        if held is not None and held.root != walk.tree.root():
            raise Bad("tampered", f"an entry before {walk.size} is not what the held checkpoint of that size covers")

    def _compare(self, walk: Walk, checkpoint: Checkpoint) -> None:
        trusted = self._anchors.public_keys or [held.public_key for held in self._anchors.checkpoints]
        checkpoint.check(keys=trusted or [checkpoint.public_key], origin=self._anchors.origin)
        if not _signed(checkpoint.public_key, checkpoint.signature, checkpoint.note):
            raise Bad("tampered", "the public key beside the checkpoint is not the one that signed it")
        if checkpoint.log_id != self._log_id:
            raise Bad("tampered", f"the checkpoint is of the log {checkpoint.log_id}")
        if self._origin != self._anchors.origin:
            raise Bad("tampered", f"the header names the origin {self._origin}, the signed note {self._anchors.origin}")
        covered = max([checkpoint.size, *self._held, *(seq + 1 for seq in self._anchors.receipts)])
        if covered > walk.size:
            raise Bad("incomplete", f"{covered} entries are known to exist and the file has {walk.size}")
        if checkpoint.size < walk.size:
            raise Bad("unanchored", f"the checkpoint covers {checkpoint.size} of {walk.size} entries")
        if checkpoint.root != walk.tree.root():
            raise Bad("tampered", f"the {walk.size} entries are not those that the checkpoint was signed over")

    def _answer(self, checkpoint: Checkpoint) -> Result:
        what = f"{checkpoint.size} entries of log {self._log_id}, signed {checkpoint.signed_at}"
        key = checkpoint.public_key
        own = base64.b64encode(key).decode()
        anchors = [f"the given public key {own}"] if self._anchors.public_keys else []
        anchors += [f"the held checkpoint over {c.size} entries, signed {c.signed_at}" for c in self._held.values()]
        if anchors:
            return Result("ok", f"{what}; anchored by {' and '.join(anchors)}", checkpoint.size, key)
        text = f"{what} by {own}: nothing outside the file vouches for this key; confirm it and give --public-key"
        return Result("unanchored", text, checkpoint.size, key)


def _values(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            cut = not line.endswith(b"\n")
            raise Bad("incomplete" if cut else "tampered", f"line {number} is no JSON object")
        yield value


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that was kept: an export's last line, or only the object in it."""
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    value = json.loads(lines[-1] if len(lines) > 1 and lines[-1].startswith("{") else "".join(lines))
    return Checkpoint.read(value.get("checkpoint", value))


def read_receipts(path: Path) -> dict[int, str]:
    """Read receipts, one JSON object per line: {"seq": 7, "leaf_hash": "…"}."""
    values = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {int(value["seq"]): str(value["leaf_hash"]) for value in values}


def refuse_itself(file: Path, checkpoints: Iterable[Path]) -> None:
    """Raise ValueError when a held checkpoint is the file that it should vouch for, or a copy of it."""
    for path in checkpoints:
        if filecmp.cmp(file, path, shallow=False):
            raise ValueError(f"{path} is the file to verify, or a copy of it: a file cannot vouch for itself")


def read_anchors(
    public_keys: Iterable[str], checkpoints: Iterable[Path], receipts: Iterable[Path], origin: str = ORIGIN
) -> Anchors:
    """Read what the command line names; OSError, ValueError or Bad when it cannot be used."""
    held: dict[int, str] = {}
    for path in receipts:
        held |= read_receipts(path)
    keys = [base64.b64decode(key, validate=True) for key in public_keys]
    for key in keys:
        Ed25519PublicKey.from_public_bytes(key)
    return Anchors(keys, [read_checkpoint(path) for path in checkpoints], held, origin)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Leave with a code that is none of the answers."""
        self.print_usage(sys.stderr)
        self.exit(MISUSED, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = _Parser(description="Verify an export of the audit log offline.")
    parser.add_argument("file", type=Path, help="what ExportEvents gave")
    parser.add_argument("--public-key", action="append", default=[], help="key of the log, base64; may be repeated")
    parser.add_argument("--checkpoint", action="append", default=[], type=Path, help="a checkpoint kept earlier")
    parser.add_argument("--receipts", action="append", default=[], type=Path, help="receipts that emitters kept")
    parser.add_argument("--origin", default=ORIGIN, help=f"first part of the log's name ({ORIGIN})")
    given = parser.parse_args(arguments)
    try:
        refuse_itself(given.file, given.checkpoint)
        anchors = read_anchors(given.public_key, given.checkpoint, given.receipts, given.origin)
        with given.file.open("rb") as lines:
            result = verify(lines, anchors)
    except (OSError, ValueError, KeyError, Bad) as error:
        parser.error(f"cannot be used: {error}")
    print(f"{result.verdict}: {result.text}")  # noqa: T201 - its answer
    return EXIT_CODES[result.verdict]


if __name__ == "__main__":
    sys.exit(main())
