"""Months that left, archives and selections of a hostile exporter: what was never there is not ok in them either."""

import json
from typing import Any

from tests.audit.forgeries import OTHER, archive, changed, listed, log_of, result, retired, selection
from tests.audit.test_verifier import (
    LOG,
    SEEN,
    covered,
    held,
)


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
