"""Most lines of an export are spelled as the service spells them, and the offline verifier takes those unread.

That must change no answer: here each file is verified twice, once with every line read. The files are sealed anew after
each change, with the log's own key, so that nothing but the spelling can show that something is wrong.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from services.audit import envelopes, verifier
from services.audit.verifier import Anchors, Bad, Frontier, Result, Walk, leaf_hash, verify
from tests.audit.forgeries import checkpoint_of
from tests.audit.test_verifier import LOG, PUBLIC

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAYLOADS: list[dict[str, Any]] = [
    {}, {"name": "plain"}, {"name": "other", "count": 10, "parts": [1, 20, None, True], "of": {"name": "inner"}},
    {"said": 'a "word" and a \\ and a\nline', "path": "C:\\new"}, {"größe": "zwölf", "x": "\u2028\U0001f600"},
    {"text": "n" * 3000}, {"": "", ":": ":", "a,b": "}],{"}, {"\x7f": "\x7f"},
]  # fmt: skip


def body_of(seq: int, payload: dict[str, Any], previous: str) -> bytes:
    """What the service would have written."""
    made = envelopes.compose(
        tenant_id=LOG, event_id=str(uuid.UUID(int=seq)), source="projects", source_seq=seq + 1, entity=f"project:{seq}",
        action="projects.project.create", actor=("user", "somebody"), correlation_id="", occurred_at=BEGAN,
        payload=payload,
    )  # fmt: skip
    return made.body(seq=seq, recorded_at=BEGAN + timedelta(microseconds=seq), prev_hash=previous).encode()


def sealed(count: int, change: Callable[[int, bytes], bytes] = lambda _, body: body) -> list[bytes]:
    """An export whose bodies were changed before they were hashed, chained and signed."""
    header = {"format": verifier.FORMAT, "log_id": LOG, "origin": verifier.ORIGIN}
    lines, tree, previous = [orjson.dumps(header) + b"\n"], Frontier(), verifier.GENESIS
    for seq in range(count):
        body = change(seq, body_of(seq, PAYLOADS[seq % len(PAYLOADS)], previous))
        leaf = hashlib.sha256(b"\x00" + body).digest()
        tree.push(leaf)
        previous = leaf.hex()
        text = json.dumps(body.decode(errors="surrogateescape"), ensure_ascii=False).encode(errors="surrogateescape")
        lines.append(b'{"seq":%d,"body":%b,"leaf":"%b"}\n' % (seq, text, previous.encode()))
    return [*lines, orjson.dumps({"checkpoint": checkpoint_of(count, tree.root())}) + b"\n"]


def same(lines: list[bytes], **anchors: Any) -> Result:
    """Verify it, and once more with each line read."""
    held = Anchors(**({"public_keys": [PUBLIC]} | anchors))
    answer = verify(lines, held)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifier._Export, "skim", lambda *_: 0)
        assert verify(lines, held) == answer
    return answer


def test_what_the_service_writes_is_taken_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = sealed(1200)
    assert same(lines).verdict == "ok"

    def take(walk: Walk, seq: int, body: str, leaf: str) -> None:
        raise AssertionError(f"entry {seq} was read")

    monkeypatch.setattr(Walk, "take", take)
    sizes: list[int] = []
    assert verify(lines, Anchors(public_keys=[PUBLIC]), sizes.append).verdict == "ok"
    assert {500, 1000, 1200} <= set(sizes)  # who shows the progress sees round numbers


@pytest.mark.parametrize(
    "change",
    [
        (b'"v":1}', b'"v":1,"v":1}'), (b'"v":1}', b'"v":1 }'), (b'"v":1}', b'"v":1}}'), (b'"v":1}', b'"v":01}'),
        (b'{"action"', b'{"action":"x","action"'), (b'"entity":"', b'"entity":"a\\'), (b'"entity":"', b'"entity":"a"'),
        (b'"entity":"', b'"entity":"\\u0041'), (b'"entity":"', b'"entity":"\t'), (b'"entity":"', b'"entity":"\xff'),
        (b'"entity":"', b'"entity":"\n'), (b'"seq":3,', b'"seq":3.0,'), (b'"seq":3,', b'"seq":03,'),
        (b'"seq":3,', b'"seq":4,'), (b'"seq":3,', b'"seq":-3,'), (b'"source_seq":4', b'"source_seq":5'),
        (b'"source_seq":4', b'"source_seq":3'), (b'"source_seq":4', b'"source_seq":"4"'),
        (b'"source_seq":4', b'"source_seq":4' + b"0" * 30), (b'"source":"projects"', b'"source":"tasks"'),
        (b".000003Z", b".000002Z"), (b".000003Z", b""), (b'"log_id":"0', b'"log_id":"1'),
        (b'"prev_hash":"', b'"prev_hash":"0'),
        (b'"payload":{', b'"payload":[{'), (b'"payload":{', b'"payload":{"a":1,"a":2,'),
        (b'"payload":{', b'"payload":{"a" :1,"b" :2,'),
        (b"projects.project.create", verifier.RETIRE.encode()), (b'"action":', b'"aktion":'), (b":", b": "),
    ],
)  # fmt: skip
def test_bodies_in_another_spelling_are_answered_as_if_read(change: tuple[bytes, bytes]) -> None:
    found, other = change
    lines = sealed(8, lambda seq, body: body.replace(found, other) if seq == 3 else body)
    same(lines)
    assert lines[4] != sealed(8)[4]


TWINS = [
    (b'{"a":1,"b":2}', b'{"a":1,"a":2}'), (b'{"a" :1,"b" :2}', b'{"a" :1,"a" :2}'), (b'{"a":1}', b'{"a":1}"x}'),
    (b'{"a":10}', b'{"a":01}'), (b'{"a":1}', b'{"a":0}'), (b'{"a":{"b":1}}', b'{"b":{"b":1}}'),
    (b'{"a":{"b":1,"c":1}}', b'{"a":{"b":1,"b":1}}'), (b'{"a":"x"}', b'{"a":"x\\"}'), (b'{"a":"x"}', b'{"a":"\\x"}'),
    (b'{"a":"x"}', b'{"a":"\x01"}'), (b'{"a":"x"}', b'{"a":"\xc3"}'), (b'{"a":"x"}', b'{"\xc3":"x"}'),
    (b'{"a":"x","b":"y"}', b'{"a":"x","a":"y"}'), (b'{"a":[1,2]}', b'{"a":[1,2,]}'),
    (b'{"a":1}', b'{"a":1},"z":{"a":1}'),
    (b'{"a":":","b":1}', b'{"b":":","b":1}'), (b'{"a":NaN}', b'{"a":nan}'), (b'{"a":1e9}', b'{"a":1e09}'),
    (b"{}", b"{,}"),
    (b'{"a":"b"}', b'{"a":"b","prev_hash":"00"}'), (b'{"a":1}', b'{\n"a":1}'), (b'{"a":"\\u00e9"}', b'{"a":"\\ud800"}'),
]  # fmt: skip


@pytest.mark.parametrize(("good", "twin"), TWINS)
def test_a_payload_does_not_pass_for_one_that_it_resembles(good: bytes, twin: bytes) -> None:
    """The shape of the first is known when the second comes, and in the other order."""
    for order in ((good, twin), (twin, good), (good, good, twin), (good,), (twin,)):
        same(_holding(order))
    assert same(_holding([b'{"a":1,"b":[2]}'] * 2)).verdict == "ok"


def _holding(payloads: Sequence[bytes]) -> list[bytes]:
    """A log whose payloads are these texts, whatever they are."""

    def put(seq: int, body: bytes) -> bytes:
        begin, end = body.index(b'"payload":') + 10, body.index(b',"prev_hash"')
        return body[:begin] + payloads[seq] + body[end:]

    return sealed(len(payloads), put)


TOKENS = [
    b"{", b"}", b"[", b"]", b":", b",", b'"', b'"a"', b'"b"', b'"a":', b'"b":', b'"x"', b"1", b"0", b"20", b"-", b".",
    b"e", b" ", b"\\", b'\\"', b"\\n", b"\\u0041", b"true", b"null", "é".encode(), b"\xc3", b"\x01", b"\n",
    b'},"prev_hash":"',
]  # fmt: skip
texts = st.lists(st.sampled_from(TOKENS), max_size=8).map(b"".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.text('ab":,\\é\x7f{}[] ', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab":', max_size=2), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text('ab":', max_size=2), values, max_size=3).map(orjson.dumps)


@given(st.lists(objects | texts.map(lambda text: b"{%b}" % text), min_size=1, max_size=6))
@settings(max_examples=400)
def test_any_payload_is_answered_as_if_read(payloads: list[bytes]) -> None:
    same(_holding(payloads))


WHOLE = sealed(12)


@given(st.integers(0, len(WHOLE) - 1), st.data())
@settings(max_examples=600)
def test_any_change_of_a_line_is_answered_as_if_read(number: int, data: st.DataObject) -> None:
    line = WHOLE[number]
    begin = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(begin, min(begin + 3, len(line))))
    put = data.draw(st.sampled_from([b"", line[begin : begin + 1] * 2, *TOKENS]))
    changed = line[:begin] + put + line[end:]
    answer = same([*WHOLE[:number], changed, *WHOLE[number + 1 :]])
    if answer.verdict == "ok" and 0 < number < len(WHOLE) - 1:
        assert json.loads(changed) == json.loads(line)


def escapes() -> Iterator[tuple[bytes, bytes]]:
    yield b'{\\"action', b'{"action'
    yield b'{\\"action', b'\\{"action'
    yield b'\\"v\\":1}"', b'\\"v\\":1\\}"'
    yield b'\\"v\\":1}"', b'\\"v":1}\\"'
    yield b'\\"somebody\\"', b'"somebody\\"\\'
    yield b'\\"somebody\\"', b'\\"some"body\\"'
    yield b'\\"somebody\\"', b"\\u0022somebody\\u0022"
    yield b'\\"somebody\\"', b'\\"\\u0073omebody\\"'
    yield b'\\"somebody\\"', b'\\\\"somebody\\\\"'
    yield b'\\"plain\\"', b'"\\plain\\"'
    yield b'\\"plain\\"', b'\\"plain"\\'
    yield b'\\"plain\\"', b'\\"pl\x7fain\\"'
    yield b'"leaf"', b'"openings":[],"leaf"'
    yield b'"leaf"', b'"more":1,"leaf"'
    yield b'{"seq"', b' {"seq"'
    yield b'"}\n', b'"} \n'
    yield b'"}\n', b'"}\r\n'
    yield b'"}\n', b'"}\n\n'
    yield b'"}\n', b'"}'


@pytest.mark.parametrize(("found", "other"), list(escapes()))
def test_lines_in_another_spelling_are_answered_as_if_read(found: bytes, other: bytes) -> None:
    numbers = [number for number, line in enumerate(WHOLE) if found in line and b'"leaf"' in line]
    assert numbers
    for number in numbers:
        same([*WHOLE[:number], WHOLE[number].replace(found, other), *WHOLE[number + 1 :]])


def test_a_quote_too_few_escaped_and_a_backslash_too_many_do_not_make_up_for_each_other() -> None:
    def change(_: int, body: bytes) -> bytes:
        return body.replace(b'"project:0"', b'"a"b"c"').replace(b'"payload":{}', b'"payload":{"x":"n"}')

    header, line, checkpoint = sealed(1, change)
    forged = line.replace(rb"a\"b\"c", b'a"b"c').replace(rb"\"n\"", rb"\"\\n\"")
    assert len(forged) == len(line)
    assert same([header, forged, checkpoint]).verdict == "tampered"


@pytest.mark.parametrize("entity", [b'"a"', b'"\\"a\\""', b'"a\x00"', b'"\xff"'])
def test_a_body_that_is_none_does_not_pass_with_the_leaf_of_nothing(entity: bytes) -> None:
    header, line, _ = sealed(1, lambda _, body: body.replace(b"project:0", entity[1:-1]))
    leaf = hashlib.sha256(b"\x00").digest()
    tree = Frontier()
    tree.push(leaf)
    forged = line.replace(rb"\\\"", b'"').replace(b"\\u0000", b"\0")
    forged = forged[: -verifier.TAIL] + b'","leaf":"%b"}\n' % leaf.hex().encode()
    checkpoint = orjson.dumps({"checkpoint": checkpoint_of(1, tree.root())}) + b"\n"
    assert same([header, forged, checkpoint]).verdict == "tampered"


@pytest.mark.parametrize("character", [bytes([byte]) for byte in range(ord(" "))])
@pytest.mark.parametrize("place", [b'"entity":"', b'"payload":{"'])
def test_control_characters_are_answered_as_if_read(character: bytes, place: bytes) -> None:
    """Escaped they are part of a body that is no JSON; as they are, of a line that is none."""
    lines = sealed(4, lambda seq, body: body.replace(place, place + character) if seq == 1 else body)
    assert same(lines).verdict == "tampered"
    escaped = json.dumps(character.decode())[1:-1].encode()
    assert same([line.replace(escaped, character) for line in lines]).verdict == "tampered"


def test_an_entry_after_the_checkpoint_is_answered_as_if_read() -> None:
    assert same([*WHOLE, sealed(13)[-2]]).text.startswith("something follows the checkpoint")


def test_a_manifest_is_found_among_ordinary_lines() -> None:
    leaves = [json.loads(line)["leaf"] for line in sealed(9)[1:-1]]
    tree = Frontier()
    tree.extend([bytes.fromhex(leaf) for leaf in leaves[:4]])
    stated = {"end_seq": 4, "last_leaf": leaves[3], "sources": {"projects": [[1, 4]]}}
    resume = {"begin": 4, "left": [[2, tree.root().hex()]], "last_leaf": leaves[3], "sources": stated["sources"]}

    def tell(seq: int, body: bytes) -> bytes:
        if seq != 7:
            return body
        made = body.replace(b"projects.project.create", verifier.RETIRE.encode())
        made = made.replace(b'"source":"projects","source_seq":8', b'"source":"audit","source_seq":1')
        return made.replace(b'"payload":{', b'"payload":%b,"x":{' % orjson.dumps(stated)[:-1], 1).replace(
            b',"prev_hash"', b'},"prev_hash"', 1
        )

    lines = sealed(8, tell)
    whole = [orjson.dumps(json.loads(lines[0]) | {"resume": resume}) + b"\n", *lines[5:]]
    assert same(whole).verdict == "ok"
    without = sealed(7)
    assert same([whole[0], *without[5:]]).verdict == "incomplete"


def test_what_is_held_is_compared_where_it_lies() -> None:
    lines = sealed(40)
    leaves = [json.loads(line)["leaf"] for line in lines[1:-1]]
    assert same(lines, receipts={7: leaves[7], 30: leaves[30]}).verdict == "ok"
    assert "entry 30 is not the one" in same(lines, receipts={7: leaves[7], 30: leaves[7]}).text
    tree = Frontier()
    tree.extend([bytes.fromhex(leaf) for leaf in leaves[:17]])
    held = verifier.Checkpoint.read(checkpoint_of(17, tree.root()))
    assert same(lines, checkpoints=[held]).verdict == "ok"
    other = verifier.Checkpoint.read(checkpoint_of(17, leaf_hash("another log")))
    answer = same(lines, checkpoints=[other])
    assert (answer.verdict, answer.size) == ("tampered", 17)


def test_what_was_read_of_a_file_that_breaks_off_is_answered_first() -> None:
    lines = sealed(6)

    def broken(*given: bytes) -> Iterator[bytes]:
        yield from given
        raise Bad("tampered", "the archive cannot be read")

    assert verify(broken(*lines[:4])).text == "the archive cannot be read"
    answer = verify(broken(*lines[:3], lines[5]))
    assert (answer.text, answer.size) == ("entry 2 is missing: entry 4 comes in its place", 2)
