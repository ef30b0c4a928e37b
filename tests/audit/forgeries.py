"""What a hostile exporter begins with: logs, archives, selections and words of the super-log, as the service writes."""

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import merkle, verifier
from services.audit.verifier import Anchors, Frontier, Result, compose_note, leaf_hash, verify
from tests.audit.test_verifier import (
    KEY,
    LOG,
    PUBLIC,
    SEEN,
    WITNESS,
)

OTHER = "018f0000-0000-7000-8000-000000000002"


Lines = list[dict[str, Any]]


def result(lines: Lines | list[bytes], **anchors: Any) -> Result:
    """Verify lines, under the known key unless anchors say otherwise."""
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
    return verify(data, Anchors(**({"public_keys": [PUBLIC]} | anchors)))


def log_of(contents: list[dict[str, Any]], *, log_id: str = LOG, key: Ed25519PrivateKey = KEY) -> Lines:
    """A log with these contents as the service would export it, whole."""
    lines: Lines = [{"format": verifier.FORMAT, "log_id": log_id, "origin": verifier.ORIGIN}]
    tree, previous = Frontier(), verifier.GENESIS
    for seq, content in enumerate(contents):
        usual = {
            "event_id": f"event-{seq}", "log_id": log_id, "prev_hash": previous, "seq": seq, "source": "auth",
            "source_seq": seq + 1, "action": "auth.user.register", "recorded_at": f"2026-03-01T12:00:00.{seq:06}Z",
            "payload": {},
        }  # fmt: skip
        body = json.dumps(usual | content)
        previous = leaf_hash(body).hex()
        tree.push(leaf_hash(body))
        lines.append({"seq": seq, "body": body, "leaf": previous})
    return [*lines, {"checkpoint": checkpoint_of(len(contents), tree.root(), log_id=log_id, key=key)}]


def checkpoint_of(size: int, root: bytes, *, log_id: str = LOG, key: Ed25519PrivateKey = KEY) -> dict[str, Any]:
    """Sign a checkpoint as the service would."""
    note = compose_note(origin=verifier.ORIGIN, log_id=log_id, size=size, root=root, signed_at="2026-03-01T12:01:00Z")
    return {
        "log_id": log_id, "size": size, "root_hash": root.hex(), "note": note, "key_version": 1,
        "signature": base64.b64encode(key.sign(note.encode())).decode(),
        "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        "signed_at": "2026-03-01T12:01:00Z",
    }  # fmt: skip


def subtrees(lines: Lines, begin: int, end: int) -> list[tuple[int, str]]:
    """Give the heights and hashes of the trees that cover these entries."""
    tiles = merkle.Edge(0, {}).extend(bytes.fromhex(line["leaf"]) for line in lines[1:-1])
    return [(height, merkle.span_hash(span, tiles).hex()) for height, span in merkle.subtrees(merkle.Span(begin, end))]


def retired(begin: int = 4, count: int = 9, **manifest: Any) -> Lines:
    """An export that begins after a month; a later entry is its manifest."""
    first = log_of([{} for _ in range(begin)])
    stated = {"end_seq": begin, "last_leaf": first[begin]["leaf"], "sources": {"auth": [[1, begin]]}} | manifest
    told = {"source": "audit", "source_seq": 1, "action": verifier.RETIRE, "payload": stated}
    whole = log_of([{} for _ in range(count - 1)] + [told])
    resume = {
        "begin": begin, "left": subtrees(whole, 0, begin), "last_leaf": whole[begin]["leaf"],
        "sources": {"auth": [[1, begin]]},
    }  # fmt: skip
    return [whole[0] | {"resume": resume}, *whole[begin + 1 :]]


def changed(lines: Lines, place: int, **changes: Any) -> Lines:
    """Give lines of which one says something else."""
    return [*lines[:place], lines[place] | changes, *lines[place + 1 :]]


def listed(lines: Lines, size: int, *, log_id: str = LOG, above: str = "super", follows: str = "") -> dict[str, Any]:
    """What a super-log whose only head is this one says of a log."""
    tree = Frontier()
    for line in lines[1 : size + 1]:
        tree.push(bytes.fromhex(line["leaf"]))
    head = leaf_hash(verifier.compose_head(origin=verifier.ORIGIN, log_id=log_id, size=size, root=tree.root()))
    note = compose_note(
        origin=verifier.ORIGIN, log_id=above, size=1, root=head, signed_at="2026-03-01T12:01:00Z", follows=follows
    )
    signature = WITNESS.sign(verifier.compose_cosignature(note, 1772366462).encode())
    return {
        "head": {"seq": 0, "size": size, "root_hash": tree.root().hex()},
        "hashes": [],
        "checkpoint": checkpoint_of(1, head) | {
            "log_id": above, "note": note, "signature": base64.b64encode(KEY.sign(note.encode())).decode(),
        },
        "cosignatures": [
            {
                "time": 1772366462, "public_key": base64.b64encode(SEEN).decode(),
                "signature": base64.b64encode(signature).decode(),
            }
        ],
    }  # fmt: skip


def archive(name: str = "data") -> Lines:
    """The archive of a month of four entries, of two classes."""
    content: list[dict[str, Any]] = [{} for _ in range(9)]
    plain = log_of(content[:8])
    mine = plain[1:5:2]
    digest = hashlib.sha256("".join(f"{line['leaf']}\n" for line in mine).encode()).hexdigest()
    stated = {
        "month": "2026-03", "begin_seq": 0, "end_seq": 4, "first_prev_hash": verifier.GENESIS,
        "last_leaf": plain[4]["leaf"], "sources": {"auth": [[1, 4]]},
        "classes": {"data": {"entries": 2, "sha256": digest}},
    }  # fmt: skip
    content[8] = {"source": "audit", "source_seq": 1, "action": verifier.RETIRE, "payload": stated}
    whole = log_of(content)
    tiles = merkle.Edge(0, {}).extend(bytes.fromhex(line["leaf"]) for line in whole[1:-1])
    path = [merkle.span_hash(span, tiles).hex() for span in merkle.inclusion(8, 9)]
    header = {
        "format": verifier.ARCHIVE, "log_id": LOG, "origin": verifier.ORIGIN, "month": "2026-03", "begin": 0, "end": 4,
        "prev_hash": verifier.GENESIS, "left": [], "right": subtrees(whole, 4, 9), "retention_class": name,
        "manifest": {"seq": 8, "body": whole[9]["body"], "hashes": path}, "checkpoint": whole[-1]["checkpoint"],
    }  # fmt: skip
    entries = [line if line in mine else {"seq": line["seq"], "leaf": line["leaf"]} for line in whole[1:5]]
    return [header, *entries, {"entries": len(mine)}]


def selection(openings: list[dict[str, Any]] | None = None, payload: Any = None) -> Lines:
    """Two entries of nine, each with its proof."""
    whole = log_of([{"payload": payload if payload is not None else {}} for _ in range(9)])
    tiles = merkle.Edge(0, {}).extend(bytes.fromhex(line["leaf"]) for line in whole[1:-1])
    entries = [
        whole[seq + 1] | {"hashes": [merkle.span_hash(span, tiles).hex() for span in merkle.inclusion(seq, 9)]}
        for seq in (3, 7)
    ]
    if openings is not None:
        entries[0]["openings"] = openings
    header = {"format": verifier.SELECTION, "log_id": LOG, "origin": verifier.ORIGIN, "filter": {"text": "x"}}
    return [header | {"checkpoint": whole[-1]["checkpoint"]}, *entries, {"entries": 2}]
