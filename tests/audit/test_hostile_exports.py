"""Files of a hostile exporter: whatever is in them, the offline verifier never says ok, and never stops with an error.

The exporter has everything but the keys: real exports, proofs and checkpoints of this log and of others, to cut,
repeat, reorder, mix and spell in other ways.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import archives, merkle, verifier
from services.audit.verifier import Anchors, Checkpoint, Frontier, Result, compose_note, leaf_hash, verify
from tests.audit.test_verifier import (
    KEY,
    LOG,
    PUBLIC,
    SEEN,
    WITNESS,
    consistency_of,
    covered,
    export,
    held,
    inclusion_of,
    written,
)

OTHER = "018f0000-0000-7000-8000-000000000002"
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the base point of Ed25519."""
Lines = list[dict[str, Any]]


def result(lines: Lines | list[bytes], **anchors: Any) -> Result:
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
    note = compose_note(origin=verifier.ORIGIN, log_id=log_id, size=size, root=root, signed_at="2026-03-01T12:01:00Z")
    return {
        "log_id": log_id, "size": size, "root_hash": root.hex(), "note": note, "key_version": 1,
        "signature": base64.b64encode(key.sign(note.encode())).decode(),
        "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        "signed_at": "2026-03-01T12:01:00Z",
    }  # fmt: skip


def subtrees(lines: Lines, begin: int, end: int) -> list[tuple[int, str]]:
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
    return [*lines[:place], lines[place] | changes, *lines[place + 1 :]]


# What has to be ok, so that the rest of this page means something.


def test_what_is_changed_below_is_ok_before() -> None:
    assert result(log_of([{}] * 6)).verdict == "ok"
    answer = result(retired())
    assert (answer.verdict, "the first 4 of them are not here, but in archives" in answer.text) == ("ok", True), answer
    assert result(archive()).verdict == "ok"
    assert result(selection()).verdict == "ok"


# Lines.


def mixed() -> Iterator[tuple[str, Lines | list[bytes]]]:
    lines, other = export(8), log_of([{"source": "projects"}] * 8, log_id=OTHER)
    whole = written(lines)
    yield "an entry twice", [*lines[:4], lines[3], *lines[4:]]
    yield "two entries swapped", [*lines[:3], lines[4], lines[3], *lines[5:]]
    yield "backwards", [lines[0], *lines[8:0:-1], lines[-1]]
    yield "an entry of another log", [*lines[:4], other[4], *lines[5:]]
    yield "all entries of another log", [lines[0], *other[1:-1], lines[-1]]
    yield "the checkpoint of another log of the same size", [*lines[:-1], other[-1]]
    yield "the log id of another log", changed(lines, 0, log_id=OTHER)
    yield "the header twice", [lines[0], *lines]
    yield "the checkpoint twice", [*lines, lines[-1]]
    yield "two exports", [*lines, *lines]
    yield "an entry after the checkpoint", [*lines, lines[3]]
    yield "entries beyond the checkpoint", [*lines[:-1], export(5)[-1]]
    yield "fewer entries than the checkpoint", [*lines[:5], lines[-1]]
    yield "no entries", [lines[0], lines[-1]]
    yield "cut in a line", [*whole[:5], whole[5][:30]]
    yield "cut in the last line", [*whole[:-1], whole[-1][:-20]]
    yield "an empty line between", [*whole[:4], b"\n", *whole[4:]]
    yield "no file", []
    yield "nothing but a line end", [b"\n"]
    yield "a place that is no number", changed(lines, 2, seq=True)
    yield "a place that is a fraction", changed(lines, 2, seq=1.0)
    yield "a place beyond all bounds", changed(lines, 2, seq=10**40)
    yield "a leaf in capitals", changed(lines, 2, leaf=lines[2]["leaf"].upper())
    yield "a body that is an object", changed(lines, 2, body=json.loads(lines[2]["body"]))
    yield "a body in other words", changed(lines, 2, body=lines[2]["body"].replace(", ", ","))
    yield "words beside a body", changed(lines, 2, payload={"name": "never happened"})
    yield "words beside the header", changed(lines, 0, reviewed="by a notary")
    yield "words beside a checkpoint", changed(lines, -1, reviewed="by a notary")


@pytest.mark.parametrize(("what", "lines"), list(mixed()), ids=lambda value: value if isinstance(value, str) else "")
def test_lines_that_are_mixed_repeated_or_cut_are_not_ok(what: str, lines: Lines | list[bytes]) -> None:
    for anchors in ({}, {"public_keys": [], "checkpoints": [held(export(8))]}):
        assert result(lines, **anchors).verdict in ("tampered", "incomplete", "unanchored"), what


def test_a_name_that_stands_twice_is_tampered_wherever_it_stands() -> None:
    """Of two values this reader would take the last, and another reader the first."""
    whole = written(export(4))
    first, last = json.loads(whole[2]), json.loads(whole[-1])
    entry = b'{"body":"forged",' + json.dumps(first).encode()[1:] + b"\n"
    checkpoint = json.dumps(last["checkpoint"]).encode()
    inner = b'{"checkpoint":{"size":99,' + checkpoint[1:] + b"}\n"
    outer = b'{"checkpoint":{},"checkpoint":' + checkpoint + b"}\n"
    for lines in (
        [*whole[:2], entry, *whole[3:]],
        [*whole[:-1], inner],
        [*whole[:-1], outer],
        [b'{"log_id":"other",' + whole[0][1:], *whole[1:]],
    ):
        assert result(lines).verdict == "tampered"
    twice = '{"seq": 77, ' + inclusion_of(100, 77)["body"][1:]
    assert result([inclusion_of(100, 77) | {"body": twice}]).verdict == "tampered"


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe{\x00}\x00\n", '\ufeff{"format": "x"}\n'.encode(), b"[" * 200_000 + b"\n", b'{"a":' * 100_000 + b"\n",
        b"1" * 10_000 + b"\n", b"null\n", b"[]\n", b'"checkpoint"\n', b'{"format": []}\n', b'{"format": {}}\n',
        b'{"checkpoint": 1}\n', b'{"seq": 0, "body": "\\ud800", "leaf": ""}\n', b'{"seq": NaN}\n',
        b'{"seq": 0, "body": "[]", "leaf": ""}\n', b'{"seq": 0, "body": "{}", "leaf": "", "openings": [1]}\n',
        b'{"entries": 1}\n', b'{"entries": null}\n',
    ],
)  # fmt: skip
def test_what_no_service_writes_gets_an_answer(line: bytes) -> None:
    whole = written(export(3))
    for lines in ([line], [whole[0], line], [*whole[:2], line, *whole[2:]], [*whole[:-1], line], [*whole, line]):
        assert result(lines).verdict in ("tampered", "incomplete")
    for lines in (written(archive()), written(selection())):
        assert result([lines[0], line, *lines[1:]]).verdict in ("tampered", "incomplete")


@pytest.mark.parametrize("make", [lambda: written(export(3)), lambda: written([inclusion_of(9, 3)])])
def test_each_value_of_another_kind_gets_an_answer(make: Callable[[], list[bytes]]) -> None:
    kinds: list[Any] = [None, True, -1, 1.5, 10**30, "", "é", "\x00", [], [[]], {}, {"a": 1}]
    whole = make()
    for number, line in enumerate(whole):
        for place in paths(json.loads(line)):
            for kind in kinds:
                value = json.loads(line)
                target = value
                for step in place[:-1]:
                    target = target[step]
                if target[place[-1]] == kind and type(target[place[-1]]) is type(kind):
                    continue
                target[place[-1]] = kind
                forged = [*whole[:number], json.dumps(value).encode() + b"\n", *whole[number + 1 :]]
                answer = result(forged)
                free = place[-1] in ("exported_at", "key_version")  # documented: not signed, and proves nothing
                assert (answer.verdict == "ok") <= free, (place, kind)


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in items:
        yield (*before, step)
        yield from paths(item, (*before, step))


def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "endless"
    with file.open("wb") as out:
        out.write(b'{"format": "')
        out.truncate(2**33)  # eight gigabytes of nothing
    anchors = Anchors(public_keys=[PUBLIC])
    assert verify(archives.lines(file), anchors).verdict == "tampered"
    with file.open("rb") as raw:
        assert verify(verifier.read_lines(raw), anchors).verdict == "tampered"


# Signatures.


def test_another_spelling_of_a_signature_is_no_signature() -> None:
    lines = export(4)
    signature = base64.b64decode(lines[-1]["checkpoint"]["signature"])
    more = int.from_bytes(signature[32:], "little") + ORDER
    assert more < 2**256
    for forged in (
        signature[:32] + more.to_bytes(32, "little"), signature + b"\x00", signature[:-1], b"", bytes(64),
        bytes(32) + signature[32:],
    ):  # fmt: skip
        text = base64.b64encode(forged).decode()
        changes = lines[-1]["checkpoint"] | {"signature": text}
        assert result([*lines[:-1], {"checkpoint": changes}]).verdict == "tampered"


def test_a_key_of_small_order_beside_a_checkpoint_vouches_for_nothing() -> None:
    """Under the neutral point as key, R = S·B holds for every note. It must not stand beside what a real key signed."""
    lines = export(4)
    for point in (bytes([1]) + bytes(31), bytes(32), bytes([0xEC]) + bytes([0xFF] * 30) + bytes([0x7F])):
        changes = lines[-1]["checkpoint"] | {"public_key": base64.b64encode(point).decode()}
        assert result([*lines[:-1], {"checkpoint": changes}]).verdict == "tampered"
        zero = base64.b64encode(bytes([1]) + bytes(63)).decode()
        forged = [*lines[:-1], {"checkpoint": changes | {"signature": zero}}]
        assert result(forged).verdict == "tampered"
        assert result(forged, public_keys=[]).verdict in ("tampered", "unanchored")


def test_a_key_that_signed_is_the_one_that_stands_beside_it() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    lines = export(4)
    changes = lines[-1]["checkpoint"] | {"public_key": base64.b64encode(other).decode()}
    for keys in ([PUBLIC, other], [other, PUBLIC]):
        assert result([*lines[:-1], {"checkpoint": changes}], public_keys=keys).verdict == "tampered"


def test_held_checkpoints_that_contradict_each_other_anchor_nothing() -> None:
    one, two = held(export(4)), held(export(4, sources=[2, 1, 3, 4]))
    for pair in ([one, two], [two, one]):
        assert result(export(9), public_keys=[], checkpoints=pair).verdict == "tampered"
        assert result([consistency_of(9, 4)], public_keys=[], checkpoints=pair).verdict == "tampered"


def test_a_checkpoint_of_the_super_log_is_none_of_a_log() -> None:
    lines = covered(6, 6)
    above = lines[0]["super"]["checkpoint"]
    assert result([*lines[:-1], {"checkpoint": above}]).verdict == "tampered"
    assert result(lines, public_keys=[], checkpoints=[Checkpoint.read(above)]).verdict == "tampered"


# The terminal.


def test_a_file_cannot_write_over_the_answer() -> None:
    forged = "\r\x1b[2Kok: 300 entries of log x\n\u202e"
    for lines in (
        changed(export(3), 0, log_id=forged), changed(export(3), 2, seq=9, body=forged),
        log_of([{"event_id": forged, "seq": 5}]), [export(3)[0] | {forged: 1}],
    ):  # fmt: skip
        answer = result(lines)
        assert answer.verdict == "tampered"
        assert answer.text.isprintable(), answer.text


# Months that left.


def test_a_month_that_no_manifest_of_this_log_vouches_for_is_not_ok() -> None:
    lines = retired()
    resume = lines[0]["resume"]
    for name, forged in {
        "a manifest of another month": retired(end_seq=3),
        "another last leaf": retired(last_leaf="11" * 32),
        "other numbers": retired(sources={"auth": [[1, 3]]}),
        "more that was never there": changed(lines, 0, resume=resume | {"begin": 5}),
        "other hashes before": changed(lines, 0, resume=resume | {"left": [[2, "00" * 32]]}),
        "hashes in another form": changed(lines, 0, resume=resume | {"left": [[0, "00" * 32]] * 4}),
        "a tree beyond all bounds": changed(lines, 0, resume=resume | {"left": [[62, "00" * 32]], "begin": 2**62}),
        "heights below nothing": changed(lines, 0, resume=resume | {"left": [[-1, "00" * 32]]}),
        "another chain": changed(lines, 0, resume=resume | {"last_leaf": "00" * 32}),
        "words beside it": changed(lines, 0, resume=resume | {"archived": "by a notary"}),
        "of another source": [
            line if b"audit.month.retire" not in json.dumps(line).encode() else line | {"body": line["body"].replace(
                '"audit"', '"auth"')} for line in lines
        ],
    }.items():  # fmt: skip
        assert result(forged).verdict in ("tampered", "incomplete"), name


def test_numbers_beyond_all_bounds_are_not_counted_out() -> None:
    lines = retired()
    for sources in (
        {"auth": [[2, 10**15]]},
        {"auth": [[1, 2], [4, 10**18]]},
        {"auth": [[5, 1]]},
        {"auth": [["1", "2"]]},
    ):
        forged = changed(lines, 0, resume=lines[0]["resume"] | {"sources": sources})
        assert result(forged).verdict in ("tampered", "incomplete")


def test_a_checkpoint_that_is_held_over_just_the_months_that_left_is_compared() -> None:
    """Whoever stole the right to sign rewrites the month that left, whose bodies nobody asks for."""
    lines = retired()
    honest = held(log_of([{} for _ in range(4)]))
    assert result(lines, public_keys=[], checkpoints=[honest]).verdict == "ok"
    other = held(log_of([{"payload": {"what": "really happened"}} for _ in range(4)]))
    assert result(lines, public_keys=[], checkpoints=[other]).verdict == "tampered"


def test_what_a_witness_saw_before_the_first_entry_of_the_file_is_compared_or_does_not_count() -> None:
    lines = retired(begin=4)
    for size, verdict in ((4, "ok"), (3, "unanchored")):
        above = covered(9, size)[0]["super"]
        whole = log_of([{} for _ in range(4)])
        seen = lines[0] | {"super": listed(whole, size)}
        assert result([seen, *lines[1:]], witness_keys=[SEEN]).verdict == verdict
        assert result([lines[0] | {"super": above}, *lines[1:]], witness_keys=[SEEN]).verdict in (
            "tampered", "unanchored",
        )  # fmt: skip


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


# The super-log.


def test_what_the_super_log_says_of_another_log_says_nothing_of_this_one() -> None:
    lines, other = log_of([{}] * 6), log_of([{}] * 6, log_id=OTHER)
    assert result([lines[0] | {"super": listed(lines, 6)}, *lines[1:]], witness_keys=[SEEN]).verdict == "ok"
    for forged in (
        listed(other, 6, log_id=OTHER),
        listed(lines, 6) | {"head": listed(other, 6, log_id=OTHER)["head"]},
        listed(lines, 6) | {"hashes": ["00" * 32]},
        listed(lines, 6) | {"cosignatures": listed(lines, 5)["cosignatures"]},
    ):
        answer = result([lines[0] | {"super": forged}, *lines[1:]], witness_keys=[SEEN])
        assert answer.verdict == "tampered"


def test_a_witness_that_nobody_knows_anchors_nothing() -> None:
    lines = log_of([{}] * 6)
    file = [lines[0] | {"super": listed(lines, 6)}, *lines[1:]]
    unknown = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert result(file, public_keys=[], witness_keys=[unknown]).verdict == "unanchored"
    assert result(file, public_keys=[PUBLIC], witness_keys=[unknown]).verdict == "unanchored"
    swapped = json.loads(json.dumps(file))
    swapped[0]["super"]["cosignatures"][0]["public_key"] = base64.b64encode(unknown).decode()
    assert result(swapped, witness_keys=[unknown]).verdict == "tampered"


@pytest.mark.parametrize(
    ("above", "follows", "verdict"),
    [
        ("super", "", "ok"), ("super/2", "follows super 9 abc token", "ok"), ("super/2", "", "ok"),
        ("super", "follows super 9 abc token", "tampered"), ("super/2", "reviewed by a notary", "tampered"),
        ("super/1", "", "tampered"), ("super/0", "", "tampered"), ("super/02", "", "tampered"),
        ("super/-2", "", "tampered"), ("super/\u0662", "", "tampered"), ("super/2/3", "", "tampered"),
        ("superior", "", "tampered"), ("super/" + "9" * 5000, "", "tampered"), (LOG, "", "tampered"),
    ],
)  # fmt: skip
def test_only_a_super_log_is_one_and_only_a_later_one_follows(above: str, follows: str, verdict: str) -> None:
    lines = log_of([{}] * 6)
    file = [lines[0] | {"super": listed(lines, 6, above=above, follows=follows)}, *lines[1:]]
    answer = result(file, witness_keys=[SEEN])
    assert answer.verdict == verdict, answer.text
    if above == "super/2" and verdict == "ok":
        assert "an operator began without all that the witness had signed" in answer.text
        assert (follows or "unsaid") in answer.text


def test_another_name_of_the_super_log_is_not_what_was_signed() -> None:
    lines = log_of([{}] * 6)
    later = listed(lines, 6, above="super/2", follows="follows super 9 abc token")
    for name in ("super", "super/3"):
        forged = later | {"checkpoint": later["checkpoint"] | {"log_id": name}}
        answer = result([lines[0] | {"super": forged}, *lines[1:]], witness_keys=[SEEN])
        assert answer.verdict == "tampered"


# Proofs.


def test_what_follows_a_proof_is_not_passed_over() -> None:
    for proof in (inclusion_of(30, 7), consistency_of(30, 7)):
        assert result([proof]).verdict == "ok"
        for more in (proof, *export(3)):
            assert result([proof, more]).verdict == "tampered"


def test_a_proof_of_another_entry_log_or_size_is_tampered() -> None:
    proof, other = inclusion_of(30, 7), inclusion_of(30, 8)
    for forged in (
        proof | {"seq": 8}, proof | {"hashes": other["hashes"]}, proof | {"body": other["body"]},
        proof | {"body": other["body"], "leaf": other["leaf"]},
        proof | {"checkpoint": inclusion_of(31, 7)["checkpoint"]},
        proof | {"log_id": OTHER}, proof | {"seq": -1}, proof | {"seq": 7 + 2**64},
        proof | {"hashes": [*proof["hashes"], "00" * 32]},
        proof | {"checkpoint": checkpoint_of(30, bytes.fromhex(proof["checkpoint"]["root_hash"]), log_id=OTHER)},
    ):  # fmt: skip
        assert result([forged]).verdict == "tampered"
    older = consistency_of(30, 7)
    for forged in (
        older | {"old_size": 0}, older | {"old_size": -1}, older | {"old_size": 31}, older | {"old_size": 30},
        older | {"hashes": consistency_of(30, 8)["hashes"]}, older | {"size": 29}, older | {"old_root_hash": "00" * 32},
    ):  # fmt: skip
        assert result([forged]).verdict == "tampered"


def test_a_witness_that_was_asked_for_is_not_passed_over_where_none_can_have_signed() -> None:
    for lines in ([inclusion_of(30, 7)], [consistency_of(30, 7)], archive(), selection()):
        assert result(lines).verdict == "ok"
        assert result(lines, witness_keys=[SEEN]).verdict == "unanchored"


# Archives and selections.


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


def test_an_archive_of_what_was_never_there_is_not_ok() -> None:
    lines = archive()
    other = log_of([{"payload": {"what": "was never there"}} for _ in range(4)])
    for name, forged in {
        "other entries": [lines[0], *other[1:5], lines[-1]],
        "an entry twice": [*lines[:3], lines[2], *lines[3:]],
        "swapped": [lines[0], lines[2], lines[1], *lines[3:]],
        "without a body": changed(changed(lines, 1, body=None), -1, entries=1),
        "with one more body": changed(changed(lines, 2, body=log_of([{}] * 4)[2]["body"]), -1, entries=3),
        "another class": changed(lines, 0, retention_class="compliance"),
        "a class of nobody": changed(lines, 0, retention_class="nobody"),
        "another month": changed(lines, 0, month="2026-02"),
        "a shorter month": [changed(lines, 0, end=3)[0], *lines[1:4], lines[-1]],
        "another manifest": changed(lines, 0, manifest=lines[0]["manifest"] | {"seq": 7}),
        "a checkpoint of another log": changed(
            lines, 0, log_id=OTHER, checkpoint=log_of([{}] * 9, log_id=OTHER)[-1]["checkpoint"]),
        "words beside it": changed(lines, 0, reviewed="by a notary"),
        "words beside an entry": changed(lines, 1, payload={"name": "never happened"}),
        "cut": lines[:3],
        "its number missing": lines[:-1],
        "its number no number": changed(lines, -1, entries="two"),
    }.items():  # fmt: skip
        assert result(forged).verdict in ("tampered", "incomplete"), name


def test_receipts_and_held_checkpoints_are_compared_with_archives_and_selections() -> None:
    forged = held(log_of([{"payload": {"what": "really happened"}} for _ in range(2)]))
    assert result(archive(), checkpoints=[held(log_of([{}] * 2))]).verdict == "ok"
    assert result(archive(), checkpoints=[forged]).verdict == "tampered"
    for lines, seq in ((archive(), 1), (archive(), 2), (selection(), 3)):
        leaf = log_of([{}] * 9)[seq + 1]["leaf"]
        for name in ("receipts", "log_receipts"):
            right: Any = {seq: leaf} if name == "receipts" else {LOG: {seq: leaf}, OTHER: {seq: "00" * 32}}
            wrong: Any = {seq: "00" * 32} if name == "receipts" else {LOG: {seq: "00" * 32}}
            assert result(lines, **{name: right}).verdict == "ok"
            assert result(lines, **{name: wrong}).verdict == "tampered"


def test_a_selection_of_what_was_never_there_is_not_ok() -> None:
    lines = selection()
    for name, forged in {
        "an entry twice": [*lines[:2], lines[1], *lines[2:]],
        "swapped": [lines[0], lines[2], lines[1], lines[3]],
        "one left out": [*lines[:2], lines[3]],
        "the proof of another": changed(lines, 1, hashes=lines[2]["hashes"]),
        "another place": changed(lines, 1, seq=4),
        "words beside it": changed(lines, 1, payload={"name": "never happened"}),
        "words beside the header": changed(lines, 0, reviewed="by a notary"),
        "cut": lines[:-1],
    }.items():
        assert result(forged).verdict in ("tampered", "incomplete"), name


# Personal values.

SALT = bytes(range(16))


def committed(value: Any) -> dict[str, str]:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return {"$c": hashlib.sha256(SALT + text.encode()).hexdigest()}


def opening(value: Any, *, path: str = "/age", salt: bytes = SALT) -> dict[str, Any]:
    return {"path": path, "salt": base64.b64encode(salt).decode(), "value": value}


def test_only_the_value_that_was_committed_to_opens_a_commitment() -> None:
    payload = {"age": committed(12345), "erased": committed("x")}
    assert result(selection([opening(12345)], payload)).verdict == "ok"
    assert result(selection([], payload)).verdict == "ok"
    for forged in (
        opening(2345), opening("12345"), opening(12345, salt=bytes(16)), opening(12345, path="/erased"),
        opening(12345, path="/other"), opening(12345, path=""), opening(12345, path="age"),
        opening(2345, salt=SALT + b"1"),  # the same bytes are hashed: the first digit went into the salt
        opening(345, salt=SALT + b"12"), opening(12345, salt=b""), opening(12345) | {"note": "x"}, {"path": "/age"}, {},
        "x",
    ):  # fmt: skip
        verdict = result(selection([forged], payload)).verdict  # type: ignore[list-item]  # hostile
        assert verdict == "tampered", forged
