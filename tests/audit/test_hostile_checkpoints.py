"""Checkpoints of a hostile exporter: signatures, keys, and words of the super-log that say nothing of this log."""

import base64
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.audit import verifier
from services.audit.verifier import Checkpoint
from tests.audit.forgeries import (
    OTHER,
    listed,
    log_of,
    result,
)
from tests.audit.test_verifier import (
    LOG,
    PUBLIC,
    SEEN,
    consistency_of,
    covered,
    export,
    held,
)

ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the base point of Ed25519."""


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


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("point", sorted(verifier.SMALL_ORDER), ids=bytes.hex)
def test_nothing_is_signed_under_a_key_of_small_order(point: bytes, sign: int) -> None:
    """The library alone takes a signature that is all zero but for the neutral point for some texts; we for none."""
    key, signature = bytes([*point[:31], point[31] | sign]), bytes([1]) + bytes(63)
    texts = [f"text {number}" for number in range(200)]
    assert any(taken(key, signature, text) for text in texts)
    assert not any(verifier.signed(key, signature, text) for text in texts)


def taken(key: bytes, signature: bytes, text: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text.encode())
    except InvalidSignature:
        return False
    return True


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
