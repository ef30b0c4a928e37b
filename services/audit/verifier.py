"""Verifies an export of the audit log, or a proof, without a database, a network or the rest of Triptych.

    audit-verify FILE [--public-key BASE64 …] [--witness-key BASE64 …] [--checkpoint FILE …] [--receipts FILE …]

One file that needs Python's standard library and `cryptography` (`python verifier.py` does the same). It answers ok
(0), tampered (1), unanchored (2) or incomplete (3). It never says ok on the word of the file alone: a public key, that
of the log or of a witness, or a checkpoint has to come from elsewhere.
"""

import argparse
import base64
import binascii
import filecmp
import hashlib
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "triptych-audit-export/1"
ORIGIN = "triptych.local"
ARCHIVE = "triptych-audit-archive/1"
"""A month that left the log: the bodies of one retention class, and the leaf hashes of all."""
SELECTION = "triptych-audit-selection/1"
"""An export with a filter: each line proves its own entry."""
RETIRE = "audit.month.retire"
"""Action of the entry that vouches for a month that left the log: its manifest."""
ZSTD = b"\x28\xb5\x2f\xfd"
"""How a compressed file begins."""
GENESIS = "0" * 64
"""`prev_hash` of the first entry."""
INCLUSION = "triptych-audit-inclusion/1"
CONSISTENCY = "triptych-audit-consistency/1"
CHECKPOINT_NAMES = frozenset(
    ("log_id", "size", "root_hash", "note", "signature", "key_version", "public_key", "signed_at")
)
"""Fields of an export's checkpoint. All but key_version are in the signed note, or prove it."""
LINE_NAMES = frozenset(("seq", "body", "leaf", "openings"))
"""Fields of an entry's line in an export; in a selection it has its hashes as well."""
HEADER_NAMES = frozenset(("format", "log_id", "origin", "exported_at", "super", "resume"))
RESUME_NAMES = frozenset(("begin", "left", "last_leaf", "sources"))
ARCHIVE_NAMES = frozenset(
    [
        "format",
        "log_id",
        "origin",
        "month",
        "begin",
        "end",
        "prev_hash",
        "left",
        "right",
        "manifest",
        "checkpoint",
        "retention_class",
    ]
)
SALT = 16
"""Bytes of salt in a commitment. With another number of them the same hash would be that of another value."""
LONGEST_LINE = 16 * 2**20
"""Bytes of a line; an entry has 32 KiB of payload, and its personal values are part of that."""
MOST_EARLY = 5_000_000
"""Numbers that may be known behind a missing one before the first entry; with more the file cannot be whole."""
STRIDE = 500
"""Lines that are looked at together; a stretch of them ends where the log's size is a multiple of it."""
LARGEST_STRETCH = 2**20
"""Bytes of lines that are looked at together; the last of them may be as long as a line may be."""
SUBTREE = 256
"""Leaves that are hashed together at most: a full tile of the service's."""
ORDINARY = 64 * 1024
"""Bytes of a line beyond which no time is saved: it is read as anything is."""
MALFORMED = (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError)
"""What reading something that no service wrote can raise."""
KEY = "the base64 of an Ed25519 key's 32 bytes: 44 characters that end with ="
"""What a key must look like."""
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
    """Name a log: the tenant, `system`, or `super`, which lists the heads of all others."""
    if not tenant_id.strip("0-"):
        return "system"
    return tenant_id if tenant_id.strip("f-") else "super"


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

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add many leaves, as the subtrees that they make."""
        place = 0
        while left := len(leaves) - place:
            room = self.size & -self.size or SUBTREE  # a subtree of so many leaves can stand here
            count = min(room, SUBTREE, 1 << left.bit_length() - 1)
            self.push(_top(leaves[place : place + count]), count.bit_length() - 1)
            place += count

    def root(self) -> bytes:
        """Give the root; that of the empty tree is the hash of nothing."""
        if not self._peaks:
            return hashlib.sha256(b"").digest()
        root = self._peaks[-1][1]
        for _, peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root


def _top(hashes: Sequence[bytes]) -> bytes:
    """Hash a complete subtree, level by level."""
    sha256 = hashlib.sha256
    while len(hashes) > 1:
        pairs = iter(hashes)
        hashes = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return hashes[0]


def push(tree: Frontier, height: int, value: str) -> None:
    """Add the hash (hex) of a subtree of 2^height leaves; Bad where no such subtree can stand."""
    if not 0 <= height < 63 or tree.size & ((1 << height) - 1):
        raise Bad("tampered", f"a subtree of height {height} cannot stand after {tree.size} entries")
    tree.push(_unhex(value), height)


class Numbers:
    """The numbers that each source gave its events: from 1, without gaps, in any order."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._early: dict[str, set[int]] = {}

    def take(self, source: str, number: int) -> None:
        """Note one number; the same one twice is a defect."""
        last, early = self._last.get(source, 0), self._early.get(source)
        if not early and last and number == last + 1:  # as nearly always
            self._last[source] = number
            return
        early = self._early.setdefault(source, set())
        if number <= last or number in early:
            raise Bad("incomplete", f"{source} gave the number {number} to two events")
        early.add(number)
        while last + 1 in early:
            last += 1
            early.discard(last)
        self._last[source] = last

    def ranges(self) -> dict[str, list[list[int]]]:
        """Give all numbers of each source as ranges, both ends included."""
        return {source: _ranges(self._last[source], early) for source, early in sorted(self._early.items())}

    def resume(self, ranges: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Go on after the numbers that `ranges` gave."""
        if sum(last - first for held in ranges.values() for first, last in held if first > 1) > MOST_EARLY:
            raise Bad("incomplete", f"more than {MOST_EARLY} events are known to have come after one that is missing")
        for source, held in ranges.items():
            whole = [last for first, last in held if first == 1]
            self._last[source] = max(whole, default=0)
            self._early[source] = {number for first, last in held if first > 1 for number in range(first, last + 1)}

    def gap(self) -> str:
        """Say what is missing; empty when nothing is."""
        for source, early in sorted(self._early.items()):
            if early:
                first = self._last[source] + 1
                return f"{source} has reported {min(early)}, and its event {first} never arrived"
        return ""


def _ranges(last: int, early: Iterable[int]) -> list[list[int]]:
    found = [[1, last]] if last else []
    for number in sorted(early):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


class Walk:
    """Takes the entries of one log in order; each must fit its leaf, its place and the entry before it."""

    def __init__(self, log_id: str, *, tree: Frontier | None = None, loads: Callable[[str], Any] | None = None) -> None:
        self.tree = tree or Frontier()
        self.last_leaf = GENESIS
        self._log_id = log_id
        self._loads = loads or read_json
        self._recorded_at = ""
        self._numbers = Numbers()
        self._shapes = Shapes()

    @property
    def size(self) -> int:
        """Entries taken so far."""
        return self.tree.size

    def take(self, seq: int, body: str, leaf: str) -> dict[str, Any]:
        """Take one entry and give its content, or raise Bad."""
        if seq != self.tree.size:
            raise Bad("tampered", f"entry {self.size} is missing: entry {seq} comes in its place")
        computed = hashlib.sha256(b"\x00" + body.encode()).digest()
        envelope = self._envelope(seq, body)
        get = envelope.get
        if computed.hex() != leaf:
            raise _wrong(seq, envelope, "its body does not have its leaf hash")
        if get("seq") != seq or get("log_id") != self._log_id:
            raise _wrong(seq, envelope, "its body belongs elsewhere")
        if get("prev_hash") != self.last_leaf:
            raise _wrong(seq, envelope, "it does not follow the entry before it")
        recorded_at = str(get("recorded_at", ""))
        if recorded_at <= self._recorded_at:
            raise _wrong(seq, envelope, "it was recorded before the entry before it")
        self._recorded_at = recorded_at
        self.last_leaf = leaf
        self.tree.push(computed)
        try:
            self._numbers.take(str(get("source")), int(get("source_seq", 0)))
        except Bad as bad:
            raise _wrong(seq, envelope, bad.text, bad.verdict) from None
        return envelope

    def skim(self, lines: Iterable[bytes], receipts: Mapping[int, str]) -> int:
        """Take those of an export's lines, from the first on, that are spelled as the service spells an ordinary entry.

        Give their number. Nothing is judged here: the first line that is otherwise in anything, be it wrong or only
        spelled in another way, is left to `take`. What is taken here, `take` would have taken.
        """
        log_id, last, recorded_at = (
            text.encode(errors="surrogatepass") for text in (self._log_id, self.last_leaf, self._recorded_at)
        )
        size, leaves = self.size, list[bytes]()
        for line in lines:
            place = b"%d" % size
            begin = b'{"seq":%b,"body":"' % place
            escaped = line[len(begin) : -TAIL]
            found = _ENTRY.fullmatch(escaped) if len(line) <= ORDINARY and line.startswith(begin) else None
            if found is None:
                break
            action, named, payload, before, moment, seq, source, number = found.groups()
            body = _body(escaped, payload)
            leaf = hashlib.sha256(b"\x00" + body).digest()
            digits = binascii.hexlify(leaf)
            if not body or not line.endswith(b'%b%b"}\n' % (_LEAF, digits)):
                break
            if (seq, named, before) != (place, log_id, last) or moment <= recorded_at or action == _RETIRE:
                break
            if receipts and receipts.get(size, digits.decode()) != digits.decode():
                break
            if not self._shapes.know(payload) or not self._count(source, number):
                break
            leaves.append(leaf)
            size, last, recorded_at = size + 1, digits, moment
        if leaves:
            self.tree.extend(leaves)
            self.last_leaf, self._recorded_at = last.decode(), recorded_at.decode()
        return len(leaves)

    def _count(self, source: bytes, number: bytes) -> bool:
        try:
            self._numbers.take(source.decode(), int(number))
        except Bad:
            return False
        return True

    def resume(self, left: Iterable[Sequence[Any]], last_leaf: str, sources: Mapping[str, Any]) -> None:
        """Begin after a month that left the log: with the tree over what came before, its last leaf and its numbers."""
        for height, value in left:
            push(self.tree, height, value)
        self.last_leaf = last_leaf
        self._numbers.resume(sources)

    def sources(self) -> dict[str, list[list[int]]]:
        """Give the numbers that each source has given so far, as ranges."""
        return self._numbers.ranges()

    def gap(self) -> str:
        """Say which number of which source is missing; empty when none is."""
        return self._numbers.gap()

    def _envelope(self, seq: int, body: str) -> dict[str, Any]:
        try:
            envelope = self._loads(body)
        except ValueError:
            envelope = None
        if not isinstance(envelope, dict):
            raise Bad("tampered", f"entry {seq}: its body is no JSON object")
        return envelope


_ENTRY = re.compile(
    rb'{"action":%(s)b,"actor_id":%(t)b,"actor_kind":%(t)b,"correlation_id":%(t)b,"entity":%(t)b,"event_id":%(t)b'
    rb',"log_id":%(s)b,"occurred_at":%(t)b,"payload":({.*}),"prev_hash":%(s)b,"recorded_at":%(s)b,"seq":%(n)b'
    rb',"source":%(s)b,"source_seq":%(n)b,"v":1}'.replace(b'"', rb"\\\"")
    % {b"s": rb'\\"([^\\]*)\\"', b"t": rb'\\"[^\\]*\\"', b"n": rb"(0|[1-9][0-9]{0,17})"}
)
"""A body as the service writes it, in the string of a line. Where each backslash outside of the payload belongs to one
of the quotes here, and each quote to a backslash, it is JSON if the payload is, and has each name once if that does."""
_QUOTES = _ENTRY.pattern.count(b'"')
_RETIRE = RETIRE.encode()
_LEAF = b'","leaf":"'
TAIL = len(_LEAF) + 64 + len('"}\n')
"""Bytes of the end of an ordinary line."""
_MARKED = bytes(byte if byte >= ord(" ") else 0 for byte in range(256))
_DIGITS = bytes(ord("1") if byte in b"123456789" else byte for byte in range(256))


def _body(escaped: bytes, payload: bytes) -> bytes:
    """Give the text that a string in a line has, or nothing when it is none, or none that the service would write.

    `payload` is the part of it that _ENTRY does not describe.
    """
    body = escaped.translate(_MARKED, b"\\")
    quotes = body.count(b'"')
    if payload.count(b'\\"') != quotes - _QUOTES or len(escaped) - len(body) != quotes:
        return _unescaped(escaped)  # more than quotes is escaped, or not all of them
    try:
        body.decode()
    except ValueError:
        return b""
    return body if b"\x00" not in body else b""  # it marks a control character


def _unescaped(escaped: bytes) -> bytes:
    """Read the text as JSON reads it. Control characters in it are for whoever reads the payload, which has them."""
    try:
        text: str = read_json(b'"%b"' % escaped)
        return text.encode()
    except ValueError:
        return b""


class Shapes:
    """Which payloads are JSON objects that have each name once: most have the shape of one that was read before.

    Without other escapes each quote ends or begins a string. What stands between the strings, in which one digit is as
    good as another but for 0, says whether it is JSON, whatever the strings are; and which of them are names.
    """

    MOST = 4096
    """Shapes that are remembered."""
    LONGEST = 2048
    """Bytes of a payload whose shape is remembered."""

    def __init__(self) -> None:
        self._names: dict[bytes, Callable[[list[bytes]], object]] = {}
        self._known: set[tuple[bytes, object]] = set()

    def know(self, escaped: bytes) -> bool:
        """Tell whether a payload, as it stands in a string of UTF-8 without control characters, is such an object."""
        parts = escaped.split(b'\\"')
        between = b'"'.join(parts[::2]).translate(_DIGITS)
        if len(parts) % 2 == 0 or len(escaped) > self.LONGEST or b" " in between or escaped.count(b"\\") >= len(parts):
            return _reads(_unescaped(escaped))  # a space may stand between a name and its colon
        names = self._names.get(between)
        if names is not None and (between, names(parts)) in self._known:
            return True
        if not _reads(_unescaped(escaped)):
            return False
        if len(self._known) >= self.MOST:
            self._names.clear()
            self._known.clear()
        places = [place for place in range(1, len(parts), 2) if parts[place + 1].startswith(b":")]
        names = self._names[between] = itemgetter(0, *places)
        self._known.add((between, names(parts)))
        return True


def _reads(text: bytes) -> bool:
    try:
        read_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _wrong(seq: int, envelope: Mapping[str, Any], text: str, verdict: str = "tampered") -> Bad:
    return Bad(verdict, f"entry {seq} (event {envelope.get('event_id', '?')}): {text}")


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
        if lines[:3] != stated or lines[4:] != ([self.follows, ""] if self.follows else [""]):
            raise Bad("tampered", f"the checkpoint over {self.size} entries does not say what was signed")
        if not any(signed(key, self.signature, self.note) for key in keys):
            raise Bad("tampered", f"the checkpoint over {self.size} entries is not signed by a trusted key")

    @property
    def signed_at(self) -> str:
        """When it was signed, as the note has it."""
        return self.note.split("\n")[3]

    @property
    def follows(self) -> str:
        """The line of a later super-log that refers to the one before; empty in every other note."""
        line = self.note.split("\n")[4:5]
        later = epoch(self.log_id) > 1 and line and line[0].startswith("follows super")
        return line[0] if later else ""


@dataclass(frozen=True, slots=True)
class Cosignature:
    """What a witness adds to a checkpoint that grew out of the one that it signed before."""

    witness: str
    seconds: int
    signature: bytes
    public_key: bytes

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Cosignature":
        """Read the object of an export, or of a witness's own file, which also has its name."""
        _only(values, {"witness", "time", "signature", "public_key"})
        try:
            return cls(
                witness=str(values.get("witness", "a witness")),
                seconds=int(values["time"]),
                signature=_unbase64(values["signature"]),
                public_key=_unbase64(values["public_key"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Bad("tampered", f"the cosignature is malformed: {error!r}") from None

    def holds(self, note: str) -> bool:
        """Tell whether its key signed this note at its time."""
        return signed(self.public_key, self.signature, compose_cosignature(note, self.seconds))


def compose_note(*, origin: str, log_id: str, size: int, root: bytes, signed_at: str, follows: str = "") -> str:
    """Write the text that is signed (C2SP tlog-checkpoint; extension lines: the time, and what a super-log follows)."""
    more = f"{follows}\n" if follows else ""
    return f"{origin}/{log_id}\n{size}\n{base64.b64encode(root).decode()}\n{signed_at}\n{more}"


def compose_follows(before: Checkpoint, token: str) -> str:
    """Write the line by which a super-log refers to the last statement of the one before that a witness signed."""
    digest = base64.b64encode(hashlib.sha256(before.note.encode()).digest()).decode()
    return f"follows {before.log_id} {before.size} {digest} {token}".rstrip()


def epoch(log_id: str) -> int:
    """Number the super-logs: `super` is the first, `super/2` the second; 0 for any other log."""
    name, slash, number = log_id.partition("/")
    if name != "super" or not slash:
        return int(name == "super")
    if not number.isdecimal() or len(number) > 9 or str(int(number)) != number or int(number) < 2:
        return 0
    return int(number)


def compose_head(*, origin: str, log_id: str, size: int, root: bytes) -> str:
    """Write what a leaf of the super-log states: that a log has so many entries with this root."""
    return f"{origin}/{log_id}\n{size}\n{base64.b64encode(root).decode()}\n"


def compose_cosignature(note: str, seconds: int) -> str:
    """Write the text that a witness signs (C2SP tlog-cosignature)."""
    return f"cosignature/v1\ntime {seconds}\n{note}"


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


SMALL_ORDER = frozenset(
    bytes.fromhex(digits)
    for digits in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        *(f"{first}{'ff' * 30}7f" for first in ("ec", "ed", "ee")),
    )
)
"""Points that are nobody's key, in every spelling but for the sign, which is the highest bit. Under one of them a
signature that anybody can write holds for one text of eight, or for more."""


def signed(key: bytes, signature: bytes, note: str) -> bool:
    """Tell whether this key signed this text (Ed25519)."""
    if bytes([*key[:31], *(last & 0x7F for last in key[31:])]) in SMALL_ORDER:
        return False
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
class Covering:
    """How the super-log, which lists the heads of all logs, covers one."""

    seq: int
    size: int
    root: bytes
    hashes: Sequence[bytes]
    checkpoint: Checkpoint
    cosignatures: Sequence[Cosignature]

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Covering":
        """Read the object of an export's last line."""
        try:
            head = values["head"]
            _only(values, {"head", "hashes", "checkpoint", "cosignatures"})
            _only(head, {"seq", "size", "root_hash"})
            _only(values["checkpoint"], CHECKPOINT_NAMES)
            return cls(
                seq=int(head["seq"]),
                size=int(head["size"]),
                root=_unhex(head["root_hash"]),
                hashes=[_unhex(text) for text in values["hashes"]],
                checkpoint=Checkpoint.read(values["checkpoint"]),
                cosignatures=[Cosignature.read(value) for value in values["cosignatures"]],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Bad("tampered", f"what the super-log says of the log is malformed: {error!r}") from None

    def check(self, log_id: str, *, keys: Iterable[bytes], origin: str) -> None:
        """Raise Bad unless one of the keys signed a super-log that lists the log so."""
        if not epoch(self.checkpoint.log_id):
            raise Bad("tampered", "the checkpoint over all logs is of another log")
        self.checkpoint.check(keys=keys, origin=origin)
        head = leaf_hash(compose_head(origin=origin, log_id=log_id, size=self.size, root=self.root))
        place = {"index": self.seq, "size": self.checkpoint.size}
        if not includes(leaf=head, hashes=self.hashes, root=self.checkpoint.root, **place):
            raise Bad("tampered", f"the checkpoint over all logs does not cover {self.size} entries of this log")
        for cosignature in self.cosignatures:
            if not cosignature.holds(self.checkpoint.note):
                raise Bad("tampered", f"{cosignature.witness} did not sign the checkpoint over all logs")

    def witnessed(self, keys: Iterable[bytes]) -> Cosignature | None:
        """Give the cosignature of a witness whose key is known."""
        known = set(keys)
        return next((each for each in self.cosignatures if each.public_key in known), None)


@dataclass(frozen=True, slots=True)
class Anchors:
    """What the reader holds that did not come with the file."""

    public_keys: Sequence[bytes] = ()
    checkpoints: Sequence[Checkpoint] = ()
    """Checkpoints seen earlier; the file must contain what they cover."""
    receipts: Mapping[int, str] = field(default_factory=dict)
    """Position and leaf hash of entries of the file's log, as an emitter keeps them."""
    log_receipts: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """The same of many logs, by log; those of others than the file's are passed over."""
    origin: str = ORIGIN
    witness_keys: Sequence[bytes] = ()
    """Keys of witnesses: one of them must have signed what covers the log."""


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
    export: _Export | _Archive | _Selection = _Export(anchors)
    rest, number = iter(lines), 1
    try:
        for line in islice(rest, 1):
            value = _value(number, line)
            kind = str(value.get("format"))
            if kind in (INCLUSION, CONSISTENCY):
                _end(rest)
                return _shown(verify_proof(value, anchors))
            if kind in _KINDS:
                export = _KINDS[kind](anchors)
            _take(export, value)
            progress(export.size)
        for stretch in _stretches(rest):
            place = 0
            while place < len(stretch):
                skimmed = export.skim(stretch, place)
                if not skimmed:
                    _take(export, _value(number + place + 1, stretch[place]))
                place += skimmed or 1
                progress(export.size)
            number += len(stretch)
        return _shown(export.end())
    except Bad as bad:
        return _shown(Result(bad.verdict, bad.text, export.size))


def _take(export: "_Export | _Archive | _Selection", value: Mapping[str, Any]) -> None:
    """Take a line; whatever is in it, the answer is one of the four."""
    try:
        export.take(value)
    except MALFORMED as error:
        raise Bad("tampered", f"the line after {export.size} entries is malformed: {error!r}") from None


def _end(lines: Iterator[bytes]) -> None:
    for line in lines:
        _value(2, line)
        raise Bad("tampered", "something follows the proof, which is one line")


def _shown(result: Result) -> Result:
    """Escape what a terminal would obey, or not show: the text quotes what is in the file."""
    if result.text.isprintable():
        return result
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in result.text)
    return Result(result.verdict, text, result.size, result.public_key)


class _Export:
    """An export that is being read."""

    def __init__(self, anchors: Anchors) -> None:
        self._anchors = anchors
        self._held = {checkpoint.size: checkpoint for checkpoint in anchors.checkpoints}
        self._walk: Walk | None = None
        self._log_id = ""
        self._origin = ""
        self._checkpoint: Checkpoint | None = None
        self._resume: Mapping[str, Any] | None = None
        self._covering: Covering | None = None
        self._receipts: Mapping[int, str] = {}
        self._begin_seq = 0

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
            _only(value, {"checkpoint"})
            _only(value["checkpoint"], CHECKPOINT_NAMES)
        else:
            self._entry(self._walk, value)

    def skim(self, lines: Sequence[bytes], begin: int) -> int:
        """Take ordinary entries from here on, up to where the tree is compared; give their number, which may be 0."""
        walk = self._walk
        if walk is None or self._checkpoint is not None or not lines[begin].startswith(_LEAF, -TAIL):
            return 0
        compared = [*self._held, self._covering.size if self._covering is not None else 0]
        most = min([size - walk.size for size in compared if size > walk.size] + [STRIDE - walk.size % STRIDE])
        taken = walk.skim((lines[place] for place in range(begin, min(begin + most, len(lines)))), self._receipts)
        if taken:
            self._compare_roots(walk)
        return taken

    def end(self) -> Result:
        if self._walk is None:
            raise Bad("incomplete", "the file is empty")
        if self._checkpoint is None:
            raise Bad("incomplete", f"the file ends after {self.size} entries, before its checkpoint")
        self._compare(self._walk, self._checkpoint)
        if self._resume is not None:
            begin = self._resume["begin"]
            raise Bad("incomplete", f"the entries before {begin} are not here, and no manifest vouches for them")
        if gap := self._walk.gap():
            raise Bad("incomplete", gap)
        return self._answer(self._checkpoint)

    def _begin(self, header: Mapping[str, Any]) -> None:
        if header.get("format") != FORMAT:
            raise Bad("incomplete", f"the first line is not the header of an export ({FORMAT})")
        _only(header, HEADER_NAMES)
        self._log_id = str(header.get("log_id"))
        self._origin = str(header.get("origin"))
        anchors = self._anchors
        _check_held(anchors, self._log_id)
        self._receipts = {**anchors.receipts, **anchors.log_receipts.get(self._log_id, {})}
        if "super" in header:
            self._covering = Covering.read(header["super"])
            keys = _trusted(anchors) or [self._covering.checkpoint.public_key]
            self._covering.check(self._log_id, keys=keys, origin=anchors.origin)
        self._walk = Walk(self._log_id)
        if (resume := header.get("resume")) is not None:
            self._resume = resume
            _resume(self._walk, resume)
            self._begin_seq = self._walk.size
            self._compare_roots(self._walk)
            if self._covering is not None and self._covering.size < self._walk.size:
                self._covering = None  # of entries that are not here: nothing connects it with those that are
            if early := [held.size for held in anchors.checkpoints if held.size < self._walk.size]:
                begin = self._walk.size
                raise Bad("unanchored", f"the file begins at entry {begin}, after the {early[0]} that are held")

    def _entry(self, walk: Walk, value: Mapping[str, Any]) -> None:
        seq, body, leaf = value.get("seq"), value.get("body"), value.get("leaf")
        if type(seq) is not int or not isinstance(body, str) or not isinstance(leaf, str):
            raise Bad("tampered", f"the line of entry {walk.size} is malformed")
        if not value.keys() <= LINE_NAMES:
            _only(value, LINE_NAMES)
        envelope = walk.take(seq, body, leaf)
        check_openings(seq, envelope, value)
        if self._resume is not None and _vouches(envelope, self._resume):
            self._resume = None
        if self._receipts.get(seq, leaf) != leaf:
            raise Bad("tampered", f"entry {seq} is not the one that its emitter has a receipt for")
        self._compare_roots(walk)

    def _compare_roots(self, walk: Walk) -> None:
        """Compare the tree so far with what is known of it from elsewhere."""
        size = walk.size
        if size in self._held and self._held[size].root != walk.tree.root():
            raise Bad("tampered", f"an entry before {size} is not what the held checkpoint of that size covers")
        if self._covering is not None and size == self._covering.size and self._covering.root != walk.tree.root():
            raise Bad("tampered", f"an entry before {size} is not what the checkpoint over all logs covers")

    def _compare(self, walk: Walk, checkpoint: Checkpoint) -> None:
        _check_signed(checkpoint, self._anchors)
        if checkpoint.log_id != self._log_id:
            raise Bad("tampered", f"the checkpoint is of the log {checkpoint.log_id}")
        if self._origin != self._anchors.origin:
            raise Bad("tampered", f"the header names the origin {self._origin}, the signed note {self._anchors.origin}")
        listed = self._covering.size if self._covering is not None else 0
        covered = max([checkpoint.size, listed, *self._held, *(seq + 1 for seq in self._receipts)])
        if covered > walk.size:
            raise Bad("incomplete", f"{covered} entries are known to exist and the file has {walk.size}")
        if checkpoint.size < walk.size:
            raise Bad("unanchored", f"the checkpoint covers {checkpoint.size} of {walk.size} entries")
        if checkpoint.root != walk.tree.root():
            raise Bad("tampered", f"the {walk.size} entries are not those that the checkpoint was signed over")

    def _answer(self, checkpoint: Checkpoint) -> Result:
        what = f"{checkpoint.size} entries of log {self._log_id}, signed {checkpoint.signed_at}"
        if self._begin_seq:
            what += f" (the first {self._begin_seq} of them are not here, but in archives: only their hashes are)"
        key = checkpoint.public_key
        own = base64.b64encode(key).decode()
        anchors = [f"the given public key {own}"] if self._anchors.public_keys else []
        anchors += [f"the held checkpoint over {c.size} entries, signed {c.signed_at}" for c in self._held.values()]
        if self._anchors.witness_keys:
            anchors.append(self._witnessed(checkpoint, alone=not anchors))
        if anchors:
            return Result("ok", f"{what}; anchored by {' and '.join(anchors)}", checkpoint.size, key)
        text = f"{what} by {own}: nothing outside the file vouches for this key; confirm it and give --public-key"
        return Result("unanchored", text, checkpoint.size, key)

    def _witnessed(self, checkpoint: Checkpoint, *, alone: bool) -> str:
        """Say what a witness with a known key has seen of the log; Bad when none has, or too little to count alone."""
        covering = self._covering
        cosignature = covering.witnessed(self._anchors.witness_keys) if covering is not None else None
        if covering is None or cosignature is None:
            raise Bad("unanchored", "no witness whose key was given has signed what covers this file")
        if alone and covering.size < checkpoint.size:
            raise Bad("unanchored", f"the witness has seen {covering.size} of {checkpoint.size} entries")
        moment = datetime.fromtimestamp(cosignature.seconds, UTC)
        key = base64.b64encode(cosignature.public_key).decode()
        seen = f"the witness {key}, which had seen {covering.size} entries by {moment:%Y-%m-%dT%H:%M:%SZ}"
        if epoch(covering.checkpoint.log_id) < 2:
            return seen
        begun = "which an operator began without all that the witness had signed"
        return f"{seen} (super-log {covering.checkpoint.log_id}, {begun}: {covering.checkpoint.follows or 'unsaid'})"


def verify_proof(value: Mapping[str, Any], anchors: Anchors) -> Result:
    """Verify a proof that `triptych audit prove` wrote: that an entry is in a log, or that a log only grew."""
    try:
        included = value.get("format") == INCLUSION
        return _verify_inclusion(value, anchors) if included else _verify_consistency(value, anchors)
    except Bad as bad:
        return Result(bad.verdict, bad.text)
    except MALFORMED as error:
        return Result("tampered", f"the proof is malformed: {error!r}")


def _verify_inclusion(value: Mapping[str, Any], anchors: Anchors) -> Result:
    _only(value, {"format", "origin", "log_id", "seq", "body", "leaf", "hashes", "checkpoint"})
    checkpoint, seq, body = Checkpoint.read(value["checkpoint"]), int(value["seq"]), str(value["body"])
    leaf = leaf_hash(body)
    envelope = read_json(body)
    if leaf.hex() != value["leaf"]:
        raise Bad("tampered", f"entry {seq}: its body does not have its leaf hash")
    if envelope["seq"] != seq or envelope["log_id"] != value["log_id"] or checkpoint.log_id != value["log_id"]:
        raise Bad("tampered", f"entry {seq}: its body belongs elsewhere")
    receipts = {**anchors.receipts, **anchors.log_receipts.get(checkpoint.log_id, {})}
    if receipts.get(seq, value["leaf"]) != value["leaf"]:
        raise Bad("tampered", f"entry {seq} is not the one that its emitter has a receipt for")
    hashes = [_unhex(text) for text in value["hashes"]]
    if not includes(leaf=leaf, index=seq, size=checkpoint.size, hashes=hashes, root=checkpoint.root):
        raise Bad("tampered", f"entry {seq} is not among the {checkpoint.size} entries that were signed")
    what = f"entry {seq} (event {envelope['event_id']}) of log {checkpoint.log_id} is among {checkpoint.size} entries"
    return _proven(what, checkpoint, value, anchors)


def _verify_consistency(value: Mapping[str, Any], anchors: Anchors) -> Result:
    names = {"format", "origin", "log_id", "old_size", "old_root_hash", "size", "root_hash", "hashes", "checkpoint"}
    _only(value, names)
    checkpoint = Checkpoint.read(value["checkpoint"])
    old_size, size = int(value["old_size"]), int(value["size"])
    old_root, root = _unhex(value["old_root_hash"]), _unhex(value["root_hash"])
    hashes = [_unhex(text) for text in value["hashes"]]
    if checkpoint.log_id != value["log_id"] or (checkpoint.size, checkpoint.root) != (size, root):
        raise Bad("tampered", f"the checkpoint is not over the {size} entries that the proof is about")
    if not extends(old_size=old_size, old_root=old_root, size=size, root=root, hashes=hashes):
        raise Bad("tampered", f"the log of {size} entries does not begin with the {old_size} of the older root")
    for held in anchors.checkpoints:
        if held.size == old_size and held.root != old_root:
            raise Bad("tampered", f"the older root is not that of the held checkpoint over {old_size} entries")
    what = f"log {checkpoint.log_id} of {size} entries begins with the {old_size} entries of the older root"
    return _proven(what, checkpoint, value, anchors, old_size)


def _proven(what: str, checkpoint: Checkpoint, value: Mapping[str, Any], anchors: Anchors, old_size: int = 0) -> Result:
    """Say what anchors a proof that holds."""
    _only(value["checkpoint"], CHECKPOINT_NAMES)
    _check_held(anchors, checkpoint.log_id)
    _check_signed(checkpoint, anchors)
    if value["origin"] != anchors.origin:
        raise Bad("tampered", f"the proof names the origin {value['origin']}, the signed note {anchors.origin}")
    _refuse_witnesses(anchors)
    what = f"{what}, signed {checkpoint.signed_at}"
    known = [held for held in anchors.checkpoints if held.size in (old_size, checkpoint.size)]
    if any(held.size == checkpoint.size and held.root != checkpoint.root for held in known):
        raise Bad("tampered", f"the held checkpoint over {checkpoint.size} entries has another root")
    if anchors.public_keys or known:
        by = "the given public key" if anchors.public_keys else f"the held checkpoint over {known[0].size} entries"
        return Result("ok", f"{what}; anchored by {by}", checkpoint.size, checkpoint.public_key)
    own = base64.b64encode(checkpoint.public_key).decode()
    text = f"{what} by {own}: nothing outside the file vouches for this key; confirm it and give --public-key"
    return Result("unanchored", text, checkpoint.size, checkpoint.public_key)


def _check_signed(checkpoint: Checkpoint, anchors: Anchors) -> None:
    """Raise Bad unless a trusted key, or without any its own, signed it, and the key beside it is that key."""
    trusted = _trusted(anchors) or [checkpoint.public_key]
    checkpoint.check(keys=trusted, origin=anchors.origin)
    if checkpoint.public_key not in trusted or not signed(checkpoint.public_key, checkpoint.signature, checkpoint.note):
        raise Bad("tampered", "the public key beside the checkpoint is not the one that signed it")


def _refuse_witnesses(anchors: Anchors) -> None:
    """Say that nothing in a file of this kind is signed by a witness, when that was asked for."""
    if anchors.witness_keys:
        raise Bad("unanchored", "no witness whose key was given has signed what covers this file: only whole exports")


def _check_held(anchors: Anchors, log_id: str) -> None:
    roots: dict[int, bytes] = {}
    for held in anchors.checkpoints:
        if roots.setdefault(held.size, held.root) != held.root:
            raise Bad("tampered", f"two held checkpoints over {held.size} entries have different roots")
        held.check(keys=anchors.public_keys or [held.public_key], origin=anchors.origin)
        if held.log_id != log_id:
            raise Bad("tampered", f"the file is of the log {log_id}, the held checkpoint of {held.log_id}")


def _trusted(anchors: Anchors) -> Sequence[bytes]:
    """Give the keys that may have signed: those that were given, else those of held checkpoints."""
    return anchors.public_keys or [held.public_key for held in anchors.checkpoints]


def _only(value: Mapping[str, Any], names: Collection[str]) -> None:
    if unknown := value.keys() - set(names):
        raise Bad("tampered", f"the file has a field that no service writes: {min(unknown)!r}")


def _resume(walk: Walk, resume: Mapping[str, Any]) -> None:
    try:
        _only(resume, RESUME_NAMES)
        walk.resume(resume["left"], str(resume["last_leaf"]), resume["sources"])
        begin = int(resume["begin"])
    except MALFORMED as error:
        raise Bad("tampered", f"what came before the first entry is malformed: {error!r}") from None
    if begin != walk.size or not begin:
        raise Bad("tampered", f"the tree before the first entry has {walk.size} entries, and the header says {begin}")


def _vouches(envelope: Mapping[str, Any], resume: Mapping[str, Any]) -> bool:
    """Tell whether an entry is the manifest of the last month that left the log."""
    if (envelope.get("source"), envelope.get("action")) != ("audit", RETIRE):
        return False
    stated = {"begin": "end_seq", "last_leaf": "last_leaf", "sources": "sources"}
    return all(envelope["payload"].get(there) == resume.get(here) for here, there in stated.items())


def check_openings(seq: int, envelope: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Raise Bad unless each personal value beside an entry is the one that its body commits to."""
    for opening in value.get("openings", ()):
        path = str(opening.get("path"))
        _only(opening, {"path", "salt", "value"})
        if _at(envelope.get("payload"), path) != {"$c": _commitment(opening)}:
            raise Bad("tampered", f"entry {seq}: the personal value at {path} is not the one that it commits to")


def _commitment(opening: Mapping[str, Any]) -> str:
    """Hash salt and value. These values have no fractions, so sorted names and UTF-8 are the canonical form."""
    text = json.dumps(opening["value"], ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    salt = _unbase64(str(opening.get("salt")))
    if len(salt) != SALT:
        raise ValueError(f"a salt has {SALT} bytes, not {len(salt)}")
    return hashlib.sha256(salt + text.encode()).hexdigest()


def _at(value: Any, path: str) -> Any:
    """Give what a JSON Pointer leads to, or None."""
    for token in path.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


class _Signed(ABC):
    """What archives and selections have in common: the header holds the checkpoint that all is proven under."""

    def __init__(self, anchors: Anchors) -> None:
        self.size = 0
        self.checkpoint: Checkpoint
        self._anchors = anchors
        self._header: Mapping[str, Any] | None = None
        self._count: int | None = None
        self._last = -1
        self._receipts: Mapping[int, str] = {}

    def skim(self, _lines: Sequence[bytes], _begin: int) -> int:
        """Take no line unread."""
        return 0

    def take(self, value: Mapping[str, Any]) -> None:
        if self._count is not None:
            raise Bad("tampered", "something follows the number of entries, which is the last line")
        try:
            if self._header is None:
                self._header = value
                self.checkpoint = Checkpoint.read(value.get("checkpoint", {}))
                self._check(str(value.get("log_id")), str(value.get("origin")))
                self._begin(value)
            elif value.keys() == {"entries"}:
                self._count = int(value["entries"])
            else:
                self._entry(value)
        except MALFORMED as error:
            raise Bad("tampered", f"the line after entry {self._last} is malformed: {error!r}") from None

    def end(self) -> Result:
        if self._header is None or self._count is None:
            raise Bad("incomplete", f"the file ends after {self.size} entries, before their number")
        if self._count != self.size:
            raise Bad("incomplete", f"the file should have {self._count} entries and has {self.size}")
        try:
            return self._end(self._header)
        except MALFORMED as error:
            raise Bad("tampered", f"the header is malformed: {error!r}") from None

    def _check(self, log_id: str, origin: str) -> None:
        anchors, checkpoint = self._anchors, self.checkpoint
        _check_signed(checkpoint, anchors)
        self._receipts = {**anchors.receipts, **anchors.log_receipts.get(log_id, {})}
        if (checkpoint.log_id, anchors.origin) != (log_id, origin):
            stated = f"{anchors.origin}/{checkpoint.log_id}"
            raise Bad("tampered", f"the header names {origin}/{log_id}, the signed note {stated}")
        _check_held(anchors, log_id)
        if any(held.size == checkpoint.size and held.root != checkpoint.root for held in anchors.checkpoints):
            raise Bad("tampered", "the held checkpoint of the same size has another root")

    def _receipt(self, seq: int, leaf: str) -> None:
        if self._receipts.get(seq, leaf) != leaf:
            raise Bad("tampered", f"entry {seq} is not the one that its emitter has a receipt for")

    def _answer(self, what: str) -> Result:
        _refuse_witnesses(self._anchors)
        key = self.checkpoint.public_key
        own = base64.b64encode(key).decode()
        signing = f"under {self.checkpoint.size} entries signed {self.checkpoint.signed_at}"
        text = f"{what} of log {self.checkpoint.log_id}, {signing}"
        if self._anchors.public_keys or self._anchors.checkpoints:
            return Result("ok", f"{text}; anchored by the key {own}", self.size, key)
        problem = "nothing outside the file vouches for this key; confirm it and give --public-key"
        return Result("unanchored", f"{text} by {own}: {problem}", self.size, key)

    @abstractmethod
    def _begin(self, header: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def _entry(self, value: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def _end(self, header: Mapping[str, Any]) -> Result: ...


class _Archive(_Signed):
    """A month that left the log. The tree before it, its leaves and the tree after it make the signed root."""

    def __init__(self, anchors: Anchors) -> None:
        super().__init__(anchors)
        self._tree = Frontier()
        self._last_leaf = ""
        self._leaves = hashlib.sha256()
        self._stated: Mapping[str, Any] = {}

    def _end(self, header: Mapping[str, Any]) -> Result:
        if self._tree.size != header["end"]:
            raise Bad("incomplete", f"the archive goes up to entry {self._tree.size} of {header['end']}")
        if self._last_leaf != self._stated.get("last_leaf"):
            raise Bad("tampered", "the last entry is not the one that the manifest names")
        for height, value in header["right"]:
            push(self._tree, height, value)
        if (self._tree.size, self._tree.root()) != (self.checkpoint.size, self.checkpoint.root):
            raise Bad("tampered", "the entries are not those that the checkpoint was signed over")
        name = header["retention_class"]
        stated = self._stated["classes"].get(name, {})
        if stated != {"entries": self.size, "sha256": self._leaves.hexdigest()}:
            raise Bad("tampered", f"the manifest has {stated.get('entries')} entries of class {name}, and not these")
        return self._answer(f"{self.size} entries of class {name} and month {header['month']}")

    def _begin(self, header: Mapping[str, Any]) -> None:
        for height, value in header["left"]:
            push(self._tree, height, value)
        _only(header, ARCHIVE_NAMES)
        manifest = header["manifest"]
        envelope = read_json(manifest["body"])
        self._stated, self._last_leaf = envelope["payload"], str(header["prev_hash"])
        self._last = header["begin"] - 1
        path = [_unhex(value) for value in manifest["hashes"]]
        proven = includes(
            leaf=leaf_hash(manifest["body"]), index=manifest["seq"], size=self.checkpoint.size, hashes=path,
            root=self.checkpoint.root,
        )  # fmt: skip
        if not proven or (envelope.get("source"), envelope.get("action")) != ("audit", RETIRE):
            raise Bad("tampered", "the manifest in the archive is not in the log")
        names = {"month": "month", "begin": "begin_seq", "end": "end_seq", "prev_hash": "first_prev_hash"}
        for here, there in names.items():
            if header.get(here) != self._stated.get(there):
                raise Bad("tampered", f"the header and the manifest differ: {here} is not {there}")
        if self._tree.size != header["begin"]:
            raise Bad("tampered", f"the tree before the month has {self._tree.size} entries, not {header['begin']}")
        self._compare_held()

    def _entry(self, value: Mapping[str, Any]) -> None:
        seq, leaf, body = value.get("seq"), value.get("leaf"), value.get("body")
        if seq != self._tree.size or not isinstance(leaf, str) or not isinstance(body, str | None):
            raise Bad("tampered", f"entry {self._tree.size} is missing or malformed: {seq} comes in its place")
        _only(value, {"seq", "leaf", "body"})
        if body is not None:
            if leaf_hash(body).hex() != leaf:
                raise Bad("tampered", f"entry {seq}: its body does not have its leaf hash")
            if read_json(body).get("prev_hash") != self._last_leaf:
                raise Bad("tampered", f"entry {seq}: it does not follow the entry before it")
            self.size += 1
            self._leaves.update(f"{leaf}\n".encode())
        self._receipt(self._tree.size, leaf)
        push(self._tree, 0, leaf)
        self._last_leaf, self._last = leaf, self._tree.size - 1
        self._compare_held()

    def _compare_held(self) -> None:
        """Compare the tree so far with the checkpoints that are held."""
        for held in self._anchors.checkpoints:
            if held.size == self._tree.size and held.root != self._tree.root():
                raise Bad("tampered", f"an entry before {held.size} is not what the held checkpoint covers")


class _Selection(_Signed):
    """Entries that a filter chose, each with its proof. That none was left out cannot be seen from it."""

    def _end(self, header: Mapping[str, Any]) -> Result:
        return self._answer(f"{self.size} entries, selected by {json.dumps(header.get('filter', {}))},")

    def _begin(self, header: Mapping[str, Any]) -> None:
        """Nothing more is in the header that proves anything."""
        _only(header, {"format", "log_id", "origin", "filter", "checkpoint"})

    def _entry(self, value: Mapping[str, Any]) -> None:
        seq, body, hashes = value.get("seq"), value.get("body"), value.get("hashes")
        if type(seq) is not int or not isinstance(body, str) or not isinstance(hashes, list) or seq <= self._last:
            raise Bad("tampered", f"the line after entry {self._last} is malformed, or out of order")
        _only(value, LINE_NAMES | {"hashes"})
        leaf = leaf_hash(body)
        path = [_unhex(str(each)) for each in hashes]
        size, root = self.checkpoint.size, self.checkpoint.root
        if leaf.hex() != value.get("leaf") or not includes(leaf=leaf, index=seq, size=size, hashes=path, root=root):
            raise Bad("tampered", f"entry {seq} is not in the log that the checkpoint was signed over")
        envelope = read_json(body)
        if (envelope["seq"], envelope["log_id"]) != (seq, self.checkpoint.log_id):
            raise Bad("tampered", f"entry {seq}: its body belongs elsewhere")
        self._receipt(seq, leaf.hex())
        check_openings(seq, envelope, value)
        self._last = seq
        self.size += 1


_KINDS: dict[str, type[_Archive] | type[_Selection]] = {ARCHIVE: _Archive, SELECTION: _Selection}


def _stretches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Give lines some at a time; when a file cannot be read on, what was read before that comes first."""
    stretch: list[bytes] = []
    held = 0
    try:
        for line in lines:
            stretch.append(line)
            held += len(line)
            if len(stretch) == STRIDE or held > LARGEST_STRETCH:
                yield stretch
                stretch, held = [], 0
    except (Bad, OSError):
        yield stretch
        raise
    yield stretch


def _value(number: int, line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise Bad("tampered", f"line {number} is longer than any that a service writes")
    try:
        value = read_json(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        cut = not line.endswith(b"\n")
        raise Bad("incomplete" if cut else "tampered", f"line {number} is no JSON object")
    return value


def refuse_other(line: bytes) -> None:
    """Raise ValueError when the first line of a file begins nothing that this verifies; one that was cut may have."""
    if not line or (line.startswith(b"{") and not line.endswith(b"\n")):
        return
    try:
        value = read_json(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or str(value.get("format")) not in {FORMAT, INCLUSION, CONSISTENCY, *_KINDS}:
        raise ValueError("this is no export, or its first line is gone: it is no header of one")


def read_json(text: str | bytes) -> Any:
    """Read JSON in which each object has each name once: else two readers would read two things."""
    if isinstance(text, bytes):
        text = text.decode()  # what is not UTF-8 is a ValueError
    return _decoder.decode(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has a name twice")
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_once)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Give the lines of a file, and no more of one than can be right."""
    while line := file.readline(LONGEST_LINE + 1):
        yield line


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that was kept: an export's last line, or only the object in it."""
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    value = json.loads(lines[-1] if len(lines) > 1 and lines[-1].startswith("{") else "".join(lines))
    return Checkpoint.read(value.get("checkpoint", value))


def read_receipts(path: Path) -> dict[str, dict[int, str]]:
    """Read receipts, one JSON object per line: {"log_id": "…", "seq": 7, "leaf_hash": "…"}; by log, "" without one."""
    found: dict[str, dict[int, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            value = json.loads(line)
            found.setdefault(str(value.get("log_id", "")), {})[int(value["seq"])] = str(value["leaf_hash"])
    return found


def refuse_itself(file: Path, checkpoints: Iterable[Path]) -> None:
    """Raise ValueError when a held checkpoint is the file that it should vouch for, or a copy of it."""
    for path in checkpoints:
        if filecmp.cmp(file, path, shallow=False):
            raise ValueError(f"{path} is the file to verify, or a copy of it: a file cannot vouch for itself")


def read_anchors(
    public_keys: Iterable[str] = (),
    checkpoints: Iterable[Path] = (),
    receipts: Iterable[Path] = (),
    origin: str = ORIGIN,
    witness_keys: Iterable[str] = (),
) -> Anchors:
    """Read what the command line names; OSError, ValueError or Bad when it cannot be used."""
    held: dict[str, dict[int, str]] = {}
    for path in receipts:
        for log_id, found in read_receipts(path).items():
            held.setdefault(log_id, {}).update(found)
    return Anchors(
        public_keys=[_public_key(text) for text in public_keys],
        checkpoints=[read_checkpoint(path) for path in checkpoints],
        receipts=held.pop("", {}),
        log_receipts=held,
        origin=origin,
        witness_keys=[_public_key(text) for text in witness_keys],
    )


def _public_key(text: str) -> bytes:
    key = base64.b64decode(text, validate=True)
    Ed25519PublicKey.from_public_bytes(key)
    return key


def _key_text(text: str) -> str:
    """Let a key through; argparse names the option."""
    try:
        _public_key(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read ({error}); give {KEY}") from None
    return text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Leave with a code that is none of the answers."""
        self.print_usage(sys.stderr)
        self.exit(MISUSED, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = _Parser(prog="audit-verify", description="Verify an export of the audit log, or a proof, offline.")
    parser.add_argument("file", type=Path, help="what `triptych audit export` or `prove` wrote")
    keys: dict[str, Any] = {"action": "append", "default": [], "type": _key_text, "metavar": "KEY"}
    parser.add_argument("--public-key", help="key of the log, base64; may be repeated", **keys)
    parser.add_argument("--witness-key", help="key of a witness, base64; may be repeated", **keys)
    parser.add_argument("--checkpoint", action="append", default=[], type=Path, help="a checkpoint kept earlier")
    parser.add_argument("--receipts", action="append", default=[], type=Path, help="receipts that emitters kept")
    parser.add_argument("--origin", default=ORIGIN, help=f"first part of the log's name ({ORIGIN})")
    given = parser.parse_args(arguments)
    try:
        refuse_itself(given.file, given.checkpoint)
        anchors = read_anchors(given.public_key, given.checkpoint, given.receipts, given.origin, given.witness_key)
        with given.file.open("rb") as lines:
            if lines.peek(4)[:4] == ZSTD:
                parser.error(f"{given.file} is compressed: give what `zstd -d {given.file}` makes of it")
            first = list(islice(read_lines(lines), 1))
            refuse_other(b"".join(first))
            result = verify(chain(first, read_lines(lines)), anchors)
    except (OSError, ValueError, KeyError, Bad) as error:
        parser.error(f"cannot be used: {error}")
    print(f"{result.verdict}: {result.text}")  # noqa: T201 - its answer
    return EXIT_CODES[result.verdict]


if __name__ == "__main__":
    sys.exit(main())
