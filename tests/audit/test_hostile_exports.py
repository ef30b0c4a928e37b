"""Files of a hostile exporter: whatever is in them, the offline verifier never says ok, and never stops with an error.

The exporter has everything but the keys: real exports, proofs and checkpoints of this log and of others, to cut,
repeat, reorder, mix and spell in other ways. Here: their lines, and the values in them.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.audit import archives, verifier
from services.audit.verifier import Anchors, verify
from tests.audit.forgeries import OTHER, Lines, archive, changed, log_of, result, retired, selection
from tests.audit.test_verifier import (
    PUBLIC,
    export,
    held,
    inclusion_of,
    written,
)


def test_what_is_changed_below_is_ok_before() -> None:
    assert result(log_of([{}] * 6)).verdict == "ok"
    answer = result(retired())
    assert (answer.verdict, "the first 4 of them are not here, but in archives" in answer.text) == ("ok", True), answer
    assert result(archive()).verdict == "ok"
    assert result(selection()).verdict == "ok"


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


def test_a_file_cannot_write_over_the_answer() -> None:
    forged = "\r\x1b[2Kok: 300 entries of log x\n\u202e"
    for lines in (
        changed(export(3), 0, log_id=forged), changed(export(3), 2, seq=9, body=forged),
        log_of([{"event_id": forged, "seq": 5}]), [export(3)[0] | {forged: 1}],
    ):  # fmt: skip
        answer = result(lines)
        assert answer.verdict == "tampered"
        assert answer.text.isprintable(), answer.text
