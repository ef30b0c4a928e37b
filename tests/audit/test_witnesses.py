"""The file witness: what it signs, what it refuses, and that it keeps before it signs."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import merkle
from services.audit.verifier import ORIGIN, Checkpoint, compose_follows, compose_note, leaf_hash
from services.audit.witnesses import FileWitness, Overtaken, Refused

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def leaves(count: int, what: str = "head") -> list[bytes]:
    return [leaf_hash(f"{what} {number}") for number in range(count)]


def signed(
    count: int, *, what: str = "head", log_id: str = "super", key: Ed25519PrivateKey = KEY, follows: str = ""
) -> Checkpoint:
    tiles = merkle.Edge(0, {}).extend(leaves(count, what))
    root = merkle.span_hash(merkle.Span(0, count), tiles)
    stated = {"signed_at": "2026-03-01T12:01:01Z", "follows": follows}
    note = compose_note(origin=ORIGIN, log_id=log_id, size=count, root=root, **stated)
    return Checkpoint(log_id, count, root, note, key.sign(note.encode()), key.public_key().public_bytes_raw())


def proof(old: int, count: int, what: str = "head") -> list[bytes]:
    tiles = merkle.Edge(0, {}).extend(leaves(count, what))
    return [merkle.span_hash(span, tiles) for span in merkle.consistency(old, count)]


@pytest.fixture
def witness(tmp_path: Path) -> FileWitness:
    return FileWitness(tmp_path / "witness", ORIGIN)


async def test_it_signs_what_grew_out_of_what_it_signed(witness: FileWitness, tmp_path: Path) -> None:
    assert await witness.latest() is None
    first = await witness.add_checkpoint(0, [], signed(3))
    second = await witness.add_checkpoint(3, proof(3, 7), signed(7))
    assert first.holds(signed(3).note)
    assert second.holds(signed(7).note)
    assert not second.holds(signed(3).note)
    assert first.public_key == second.public_key
    public = (tmp_path / "witness" / "public_key").read_text().strip()
    assert base64.b64decode(public) == first.public_key
    held = await FileWitness(tmp_path / "witness", ORIGIN).latest()
    assert held is not None
    assert (held.checkpoint, held.cosignature) == (signed(7), second)


async def test_it_refuses_what_did_not_grow_out_of_it(witness: FileWitness) -> None:
    await witness.add_checkpoint(0, [], signed(3))
    with pytest.raises(Refused, match="does not begin with the 3 heads"):
        await witness.add_checkpoint(3, proof(3, 7, "other"), signed(7, what="other"))
    with pytest.raises(Refused, match="does not begin with the 3 heads"):
        await witness.add_checkpoint(3, [], signed(3, what="other"))
    with pytest.raises(Refused, match="has signed 3 heads, and the super-log has 2"):
        await witness.add_checkpoint(3, [], signed(2))
    with pytest.raises(Overtaken):
        await witness.add_checkpoint(0, [], signed(7))
    held = await witness.latest()
    assert held is not None
    assert held.checkpoint.size == 3


async def test_it_knows_the_log_by_its_key(witness: FileWitness, tmp_path: Path) -> None:
    await witness.add_checkpoint(0, [], signed(3))
    rotated = Ed25519PrivateKey.generate()
    with pytest.raises(Refused, match="add the new one to"):
        await witness.add_checkpoint(3, proof(3, 7), signed(7, key=rotated))
    with (tmp_path / "witness" / "log_keys").open("a") as keys:
        keys.write(f"{base64.b64encode(rotated.public_key().public_bytes_raw()).decode()}\n")
    await witness.add_checkpoint(3, proof(3, 7), signed(7, key=rotated))


async def test_a_later_super_log_begins_anew_and_an_earlier_one_never(witness: FileWitness) -> None:
    await witness.add_checkpoint(0, [], signed(9))
    follows = compose_follows(signed(9), "token")
    await witness.add_checkpoint(0, [], signed(4, log_id="super/2", follows=follows))
    with pytest.raises(Refused, match="which came later"):
        await witness.add_checkpoint(0, [], signed(9))


@pytest.mark.parametrize(
    "follows",
    [
        "",
        compose_follows(signed(9), ""),
        compose_follows(signed(8), "token"),
        compose_follows(signed(9, what="other"), "token"),
        compose_follows(signed(9, log_id="super/2"), "token"),
        f"{compose_follows(signed(9), 'token')} more",
    ],
)
async def test_a_later_super_log_refers_to_what_was_signed_last_or_is_not_signed(
    witness: FileWitness, follows: str
) -> None:
    await witness.add_checkpoint(0, [], signed(9))
    with pytest.raises(Refused, match="super/3 does not refer to the 9 heads of super that the witness signed"):
        await witness.add_checkpoint(0, [], signed(4, log_id="super/3", follows=follows))
    latest = await witness.latest()
    assert latest is not None
    assert latest.checkpoint == signed(9)


async def test_a_later_super_log_does_not_change_what_it_refers_to(witness: FileWitness) -> None:
    await witness.add_checkpoint(0, [], signed(9))
    begun = compose_follows(signed(9), "token")
    await witness.add_checkpoint(0, [], signed(4, log_id="super/2", follows=begun))
    for other in ("", compose_follows(signed(9), "another"), compose_follows(signed(8), "token")):
        with pytest.raises(Refused, match="refers to another super-log"):
            await witness.add_checkpoint(4, proof(4, 6), signed(6, log_id="super/2", follows=other))
    await witness.add_checkpoint(4, proof(4, 6), signed(6, log_id="super/2", follows=begun))


async def test_what_is_kept_of_a_checkpoint_beside_its_note_must_agree_with_it(
    witness: FileWitness, tmp_path: Path
) -> None:
    await witness.add_checkpoint(0, [], signed(3))
    (path,) = (tmp_path / "witness").glob("*.jsonl")
    whole = path.read_bytes()
    for change in (b'"size":2', b'"log_id":"super/9"'):
        name = change.partition(b":")[0]
        begin = whole.index(name)
        end = whole.index(b",", begin)
        path.write_bytes(whole[:begin] + change + whole[end:])
        with pytest.raises(Refused, match="does not say what was signed"):
            await witness.latest()


async def test_a_line_that_was_cut_off_was_never_signed(witness: FileWitness, tmp_path: Path) -> None:
    await witness.add_checkpoint(0, [], signed(3))
    (path,) = (tmp_path / "witness").glob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    held = await witness.latest()
    assert held is not None
    assert held.checkpoint.size == 3
    await witness.add_checkpoint(3, proof(3, 5), signed(5))
    assert [json.loads(line)["checkpoint"]["size"] for line in path.read_bytes().splitlines()] == [3, 5]
    assert path.stat().st_mode & 0o077 == 0


async def test_a_line_that_was_changed_is_not_believed(witness: FileWitness, tmp_path: Path) -> None:
    await witness.add_checkpoint(0, [], signed(3))
    (path,) = (tmp_path / "witness").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"time":', b'"time":1'))
    with pytest.raises(Refused, match="not signed by the witness"):
        await witness.latest()
