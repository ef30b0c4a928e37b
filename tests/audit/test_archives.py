"""The files that months leave the log for: each proves itself, and none is believed that was changed or cut."""

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from services.audit import archives, verifier
from services.audit.verifier import Anchors, Bad
from tests.audit.months import Past, files, public_key

CLASSES = ("authentication", "compliance", "data")


async def test_each_class_has_an_archive_of_its_own_that_verifies_by_itself(then: Past) -> None:
    await then.retire(*then.months)
    found = files(then)
    assert len(found) == 2 * (len(CLASSES) + 1)  # the other log has data only
    assert all(path.stat().st_mode & 0o077 == 0 for path in found)
    key = await public_key(then)
    sizes = {}
    for path in found:
        answer = verifier.verify(archives.lines(path), Anchors(public_keys=[key]))
        assert answer.verdict == "ok", answer.text
        sizes[path.relative_to(then.folder).as_posix()] = answer.size
        assert verifier.verify(archives.lines(path)).verdict == "unanchored"
    mine = {name: count for name, count in sizes.items() if then.log.tenant_id in name}
    assert mine == {
        f"{month:%Y-%m}/{then.log.tenant_id}/{name}.jsonl.zst": {"authentication": 4}.get(name, 3)
        for month in then.months
        for name in CLASSES
    }


async def test_a_changed_archive_does_not_verify(then: Past) -> None:
    await then.retire(then.months[0])
    key = await public_key(then)
    path = then.folder / f"{then.months[0]:%Y-%m}" / then.log.tenant_id / "data.jsonl.zst"
    lines = list(archives.lines(path))
    bodies = [place for place, line in enumerate(lines) if b'"body"' in line and place]

    def answer(changed: list[bytes]) -> str:
        return verifier.verify(changed, Anchors(public_keys=[key])).verdict

    assert answer(lines) == "ok"
    first = json.loads(lines[bodies[0]])
    header = json.loads(lines[0])
    other_body = json.dumps(first | {"body": first["body"].replace("somebody", "nobody")}).encode() + b"\n"
    other_leaf = json.dumps({"seq": first["seq"], "leaf": "00" * 32}).encode() + b"\n"
    hidden = json.dumps({"seq": first["seq"], "leaf": first["leaf"]}).encode() + b"\n"
    assert answer([*lines[: bodies[0]], other_body, *lines[bodies[0] + 1 :]]) == "tampered"
    assert answer([*lines[: bodies[0]], other_leaf, *lines[bodies[0] + 1 :]]) == "tampered"
    # A body that was taken out leaves a leaf that fits; the manifest counts the bodies.
    assert answer([*lines[: bodies[0]], hidden, *lines[bodies[0] + 1 : -1], b'{"entries": 2}\n']) == "tampered"
    assert answer([*lines[:5], *lines[6:]]) == "tampered"
    assert answer(lines[:-1]) == "incomplete"
    assert answer([*lines, lines[-1]]) == "tampered"
    changes: list[dict[str, Any]] = [
        {"retention_class": "compliance"}, {"month": "1999-01"}, {"begin": 1}, {"end": 9}, {"left": [[0, "00" * 32]]},
        {"right": []}, {"prev_hash": "11" * 32}, {"log_id": "system"}, {"origin": "elsewhere"}, {"manifest": {}},
        {"manifest": header["manifest"] | {"seq": 3}}, {"checkpoint": {}}, {"right": "x"},
    ]  # fmt: skip
    for change in changes:
        assert answer([json.dumps(header | change).encode() + b"\n", *lines[1:]]) == "tampered", change


async def test_a_damaged_file_is_said_to_be_damaged(then: Past, tmp_path: Path) -> None:
    await then.retire(then.months[0])
    path = then.folder / f"{then.months[0]:%Y-%m}" / then.log.tenant_id / "data.jsonl.zst"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged = tmp_path / "damaged.zst"
    damaged.write_bytes(data)
    with pytest.raises(Bad):
        archives.verify(damaged, await public_key(then), verifier.ORIGIN)
    damaged.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Bad):
        archives.verify(damaged, await public_key(then), verifier.ORIGIN)
    bomb = zstandard.ZstdCompressor().compress(b"\n" * 10)
    damaged.write_bytes(bomb)
    with pytest.raises(Bad):
        archives.verify(damaged, await public_key(then), verifier.ORIGIN)


def test_an_archive_outside_of_the_folder_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    with pytest.raises(ValueError, match="not below the folder"):
        archives.delete(tmp_path / "archives", "../other")
