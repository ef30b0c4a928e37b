"""Proofs and personal values of a hostile exporter: each opens or proves the one thing that it was made for."""

import base64
import hashlib
import json
from typing import Any

from tests.audit.forgeries import (
    OTHER,
    archive,
    checkpoint_of,
    result,
    selection,
)
from tests.audit.test_verifier import (
    SEEN,
    consistency_of,
    export,
    inclusion_of,
)


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
