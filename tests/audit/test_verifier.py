"""The offline verifier, by itself: a file, no server, no other module of ours."""

import ast
import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import merkle, verifier
from services.audit.verifier import Anchors, Checkpoint, Frontier, compose_note, leaf_hash, verify
from services.cli.audit import audit
from tests.patience import SECONDS

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
LOG = "018f0000-0000-7000-8000-000000000001"


def export(count: int, *, sources: list[int] | None = None, key: Ed25519PrivateKey = KEY) -> list[dict[str, Any]]:
    """Write a log as the service would."""
    lines: list[dict[str, Any]] = [{"format": verifier.FORMAT, "log_id": LOG, "origin": verifier.ORIGIN}]
    tree, previous = Frontier(), verifier.GENESIS
    for seq in range(count):
        number = sources[seq] if sources else seq + 1
        body = json.dumps(
            {
                "event_id": f"event-{seq}", "log_id": LOG, "prev_hash": previous, "seq": seq, "source": "auth",
                "recorded_at": f"2026-03-01T12:00:00.{seq:06}Z", "source_seq": number, "v": 1,
            }
        )  # fmt: skip
        previous = leaf_hash(body).hex()
        tree.push(leaf_hash(body))
        lines.append({"seq": seq, "body": body, "leaf": previous})
    note = compose_note(
        origin=verifier.ORIGIN, log_id=LOG, size=count, root=tree.root(), signed_at="2026-03-01T12:01:00Z"
    )
    checkpoint = {
        "log_id": LOG, "size": count, "root_hash": tree.root().hex(), "note": note,
        "signature": base64.b64encode(key.sign(note.encode())).decode(),
        "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        "key_version": 1, "signed_at": "2026-03-01T12:01:00Z",
    }  # fmt: skip
    return [*lines, {"checkpoint": checkpoint}]


def written(lines: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(line).encode() + b"\n" for line in lines]


def answer(lines: list[dict[str, Any]], **anchors: Any) -> tuple[str, str]:
    result = verify(written(lines), Anchors(**({"public_keys": [PUBLIC]} | anchors)))
    return result.verdict, result.text


def held(lines: list[dict[str, Any]]) -> Checkpoint:
    return Checkpoint.read(lines[-1]["checkpoint"])


def test_a_whole_export_under_a_known_key_is_ok() -> None:
    verdict, text = answer(export(300))
    assert verdict == "ok"
    key = base64.b64encode(PUBLIC).decode()
    assert text == f"300 entries of log {LOG}, signed 2026-03-01T12:01:00Z; anchored by the given public key {key}"


def test_nothing_is_ok_on_the_word_of_the_file_alone() -> None:
    verdict, text = answer(export(5), public_keys=[])
    assert verdict == "unanchored"
    assert base64.b64encode(PUBLIC).decode() in text


def test_an_earlier_checkpoint_anchors_what_grew_out_of_it() -> None:
    verdict, text = answer(export(9), public_keys=[], checkpoints=[held(export(4))])
    assert verdict == "ok"
    assert text.endswith("anchored by the held checkpoint over 4 entries, signed 2026-03-01T12:01:00Z")


def test_an_earlier_checkpoint_finds_a_rewritten_log() -> None:
    verdict, text = answer(export(9), checkpoints=[held(export(4, sources=[4, 3, 2, 1]))])
    assert verdict == "tampered"
    assert "held checkpoint" in text


def test_a_log_under_a_new_key_is_tampered() -> None:
    verdict, text = answer(export(5, key=Ed25519PrivateKey.generate()))
    assert (verdict, text) == ("tampered", "the checkpoint over 5 entries is not signed by a trusted key")


def test_each_change_of_a_line_is_found_and_named() -> None:
    for change, expected in {
        "leaf": "entry 3 (event event-3): its body does not have its leaf hash",
        "body": "entry 3 (event event-x): its body does not have its leaf hash",
        "seq": "entry 3 is missing: entry 8 comes in its place",
    }.items():
        lines = export(8)
        lines[4] |= {
            "leaf": {"leaf": "00" * 32},
            "body": {"body": lines[4]["body"].replace("event-3", "event-x")},
            "seq": {"seq": 8},
        }[change]
        assert answer(lines) == ("tampered", expected)


def test_lines_that_are_lost_or_cut_make_it_incomplete() -> None:
    lines = export(8)
    assert answer([])[0] == "incomplete"
    assert answer(lines[:-1]) == ("incomplete", "the file ends after 8 entries, before its checkpoint")
    assert answer([*lines[:6], lines[-1]]) == ("incomplete", "8 entries are known to exist and the file has 5")
    data = written(lines)
    assert verify([*data[:5], data[5][:20]]).verdict == "incomplete"
    assert verify([*data[:5], b"garbage\n", *data[6:]]).verdict == "tampered"


def test_entries_beyond_the_checkpoint_are_unanchored() -> None:
    assert answer([*export(8)[:-1], export(6)[-1]]) == ("unanchored", "the checkpoint covers 6 of 8 entries")


def test_what_follows_the_checkpoint_is_tampered() -> None:
    lines = export(4)
    assert answer([*lines, lines[2]])[0] == "tampered"


def test_a_source_that_left_a_number_out_makes_it_incomplete() -> None:
    assert answer(export(4, sources=[1, 2, 4, 5])) == (
        "incomplete",
        "auth has reported 4, and its event 3 never arrived",
    )
    assert answer(export(4, sources=[1, 2, 4, 3]))[0] == "ok"
    verdict, text = answer(export(4, sources=[1, 2, 2, 3]))
    assert (verdict, "auth gave the number 2 to two events" in text) == ("incomplete", True)


def test_a_checkpoint_that_says_something_else_than_its_note_is_tampered() -> None:
    for name, value in {"size": 3, "root_hash": "00" * 32, "note": "x", "signature": "AA=="}.items():
        lines = export(4)
        lines[-1]["checkpoint"][name] = value
        assert answer(lines)[0] == "tampered", name


def test_a_copy_that_says_something_else_than_the_signed_note_is_tampered() -> None:
    other = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    whole = export(4)[-1]["checkpoint"]
    for name, value in {
        "signed_at": "2026-03-01T12:01:01Z", "public_key": other, "root_hash": whole["root_hash"].upper(),
        "signature": other_spelling(whole["signature"]), "signee_at": "2026-03-01T12:01:00Z",
    }.items():  # fmt: skip
        lines = export(4)
        lines[-1]["checkpoint"][name] = value
        assert answer(lines)[0] == "tampered", name
    lines = export(4)
    lines[0]["origin"] = "triptych.loca1"
    verdict, text = answer(lines)
    assert (verdict, "the header names the origin triptych.loca1" in text) == ("tampered", True)


def other_spelling(text: str) -> str:
    """Change a bit of Base64 that no byte needs."""
    place = len(text.rstrip("=")) - 1
    changed = text[:place] + chr(ord(text[place]) + 1) + text[place + 1 :]
    assert base64.b64decode(changed) == base64.b64decode(text)
    return changed


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One file for each answer."""
    whole = export(6)
    changed = [dict(line) for line in whole]
    changed[2]["body"] = changed[2]["body"].replace("auth", "none")
    contents = {"ok": whole, "tampered": changed, "incomplete": whole[:-1]}
    for name, lines in contents.items():
        (tmp_path / name).write_bytes(b"".join(written(lines)))
    return {name: tmp_path / name for name in contents}


def test_the_file_runs_alone_and_its_exit_code_is_the_answer(files: dict[str, Path], tmp_path: Path) -> None:
    program = tmp_path / "verifier.py"
    program.write_bytes(Path(verifier.__file__).read_bytes())
    earlier, copied = tmp_path / "earlier", tmp_path / "copied"
    earlier.write_bytes(b"".join(written(export(4))))
    copied.write_bytes(files["ok"].read_bytes())
    key = base64.b64encode(PUBLIC).decode()
    for arguments, code, begin in (
        ([files["ok"], "--public-key", key], 0, "ok: 6 entries"),
        ([files["tampered"], "--public-key", key], 1, "tampered: entry 1 (event event-1)"),
        ([files["ok"]], 2, "unanchored: "),
        ([files["incomplete"]], 3, "incomplete: "),
        ([files["ok"], "--checkpoint", earlier], 0, "ok: "),
        ([files["ok"], "--checkpoint", files["ok"]], verifier.MISUSED, ""),
        ([files["ok"], "--checkpoint", copied], verifier.MISUSED, ""),
        ([tmp_path / "nothing"], verifier.MISUSED, ""),
        ([files["ok"], "--public-key", "x"], verifier.MISUSED, ""),
    ):
        done = subprocess.run(
            [sys.executable, "-I", str(program), *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        assert (done.returncode, done.stdout.startswith(begin)) == (code, True), done


def test_a_key_that_cannot_be_read_is_named_and_so_is_a_file_that_is_no_export(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--public-key", "--witness-key"):
        with pytest.raises(SystemExit) as left:
            verifier.main([str(files["ok"]), option, "xxx"])
        said = capsys.readouterr().err
        assert (left.value.code, f"{option}: xxx cannot be read" in said) == (verifier.MISUSED, True), said
        assert "44 characters that end with =" in said
    foreign = tmp_path / "foreign"
    for content in (b"root:x:0:0\n", b"\xff\xfe", b"[]\n", b"{}\n", b'{"format": "else"}\n', b'{"seq": 1}\n'):
        foreign.write_bytes(content)
        with pytest.raises(SystemExit) as left:
            verifier.main([str(foreign)])
        assert (left.value.code, "this is no export" in capsys.readouterr().err) == (verifier.MISUSED, True)
    for cut in (b"", files["ok"].read_bytes()[:20]):
        foreign.write_bytes(cut)
        assert verifier.main([str(foreign)]) == verifier.EXIT_CODES["incomplete"]


def test_it_needs_the_standard_library_and_cryptography_only() -> None:
    tree = ast.parse(Path(verifier.__file__).read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported - sys.stdlib_module_names == {"cryptography"}


def test_the_command_line_gives_the_same_answers(files: dict[str, Path]) -> None:
    key = base64.b64encode(PUBLIC).decode()
    for arguments, code, begin in (
        ([str(files["ok"]), "--public-key", key], 0, "ok: 6 entries"),
        ([str(files["tampered"]), "--public-key", key], 1, "tampered: entry 1"),
        ([str(files["ok"])], 2, "unanchored: "),
        ([str(files["incomplete"])], 3, "incomplete: "),
        (["--home", "no such home"], verifier.MISUSED, ""),
        (["no such file"], verifier.MISUSED, ""),
        (["--no-such-option"], verifier.MISUSED, ""),
        ([__file__], verifier.MISUSED, ""),
        ([str(files["ok"]), "--checkpoint", str(files["ok"])], verifier.MISUSED, ""),
        ([str(files["ok"]), "--address", "127.0.0.1:1"], verifier.MISUSED, ""),
        ([str(files["ok"]), "--home", "no such home"], verifier.MISUSED, ""),
    ):
        done = CliRunner().invoke(audit, ["verify", *arguments])
        assert (done.exit_code, done.stdout.startswith(begin)) == (code, True), done.output


def test_a_token_does_not_leave_this_machine_in_the_clear(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    done = CliRunner().invoke(audit, ["verify", "--address", "example.org:443", "--token-file", str(token)])
    assert done.exit_code == verifier.MISUSED
    assert "--ca-file" in done.output


def test_an_unknown_command_or_option_is_no_answer() -> None:
    for arguments in (["verifi"], ["--no-such-option"], ["export"]):
        assert CliRunner().invoke(audit, arguments).exit_code == verifier.MISUSED


def test_a_file_without_a_token_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_TOKENS", str(tmp_path / "nobody"))
    file = tmp_path / "tokens"
    for text, expected in {
        '{"some": "JSON"}': "holds no tokens of `triptych login`",
        "two\nlines": "holds no access token",
        "": "holds no access token",
    }.items():
        file.write_text(text)
        done = CliRunner().invoke(audit, ["verify", "--address", "127.0.0.1:1", "--token-file", str(file)])
        assert (done.exit_code, expected in done.output) == (verifier.MISUSED, True), done.output
    done = CliRunner().invoke(audit, ["verify", "--address", "127.0.0.1:1"])
    assert (done.exit_code, "nobody is logged in" in done.output) == (verifier.MISUSED, True), done.output


WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
SEEN = WITNESS.public_key().public_bytes_raw()


def covered(count: int, size: int, *, others: int = 3, key: Ed25519PrivateKey = KEY) -> list[dict[str, Any]]:
    """An export whose header says how the super-log lists its first entries, among those of others."""
    lines = export(count)
    tree = Frontier()
    for line in lines[1 : size + 1]:
        tree.push(bytes.fromhex(line["leaf"]))
    names = {"origin": verifier.ORIGIN}
    leaves = [
        leaf_hash(verifier.compose_head(log_id=f"other-{n}", size=n + 1, root=b"r" * 32, **names))
        for n in range(others)
    ]
    leaves.append(leaf_hash(verifier.compose_head(log_id=LOG, size=size, root=tree.root(), **names)))
    tiles = merkle.Edge(0, {}).extend(leaves)
    path = [merkle.span_hash(span, tiles) for span in merkle.inclusion(others, others + 1)]
    root = merkle.span_hash(merkle.Span(0, others + 1), tiles)
    note = compose_note(log_id="super", size=others + 1, root=root, signed_at="2026-03-01T12:01:01Z", **names)
    lines[0]["super"] = {
        "head": {"seq": others, "size": size, "root_hash": tree.root().hex()},
        "hashes": [value.hex() for value in path],
        "checkpoint": {
            "log_id": "super", "size": others + 1, "root_hash": root.hex(), "note": note, "key_version": 1,
            "signature": base64.b64encode(key.sign(note.encode())).decode(),
            "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
            "signed_at": "2026-03-01T12:01:01Z",
        },
        "cosignatures": [
            {
                "time": 1772366462, "public_key": base64.b64encode(SEEN).decode(),
                "signature": base64.b64encode(
                    WITNESS.sign(verifier.compose_cosignature(note, 1772366462).encode())
                ).decode(),
            }
        ],
    }  # fmt: skip
    return lines


def test_what_a_witness_has_seen_anchors_an_export() -> None:
    verdict, text = answer(covered(6, 6), public_keys=[], witness_keys=[SEEN])
    assert (verdict, "had seen 6 entries by 2026-03-01T12:01:02Z" in text) == ("ok", True), text
    assert answer(covered(6, 6), public_keys=[])[0] == "unanchored"
    assert answer(covered(6, 4), witness_keys=[SEEN])[0] == "ok"
    verdict, text = answer(covered(6, 4), public_keys=[], witness_keys=[SEEN])
    assert (verdict, text) == ("unanchored", "the witness has seen 4 of 6 entries")
    assert answer(covered(6, 6), witness_keys=[PUBLIC])[0] == "unanchored"
    assert answer(export(6), witness_keys=[SEEN])[0] == "unanchored"


def test_a_file_that_is_shorter_than_the_super_log_lists_is_incomplete() -> None:
    lines = covered(6, 6)
    short = export(4)
    short[0]["super"] = lines[0]["super"]
    assert answer(short, public_keys=[], witness_keys=[SEEN])[0] == "incomplete"


def test_a_rewritten_log_is_not_what_the_super_log_lists() -> None:
    lines = export(6, sources=[1, 2, 4, 3, 5, 6])
    lines[0]["super"] = covered(6, 6)[0]["super"]
    verdict, text = answer(lines)
    assert (verdict, "not what the checkpoint over all logs covers" in text) == ("tampered", True)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("head", "size"), 5), (("head", "seq"), 1), (("head", "root_hash"), "00" * 32), (("hashes", 0), "00" * 32),
        (("hashes",), []), (("checkpoint", "size"), 9), (("checkpoint", "note"), "x"), (("checkpoint", "log_id"), LOG),
        (("checkpoint", "signature"), "AA=="), (("cosignatures", 0, "time"), 1772366463),
        (("cosignatures", 0, "public_key"), base64.b64encode(PUBLIC).decode()), (("cosignatures", 0, "more"), 1),
        (("more",), 1), (("head", "more"), 1), (("checkpoint", "more"), 1), (("checkpoint", "signed_at"), "x"),
    ],
)  # fmt: skip
def test_each_change_of_what_the_super_log_says_is_found(place: tuple[Any, ...], value: Any) -> None:
    lines = json.loads(json.dumps(covered(6, 6)))
    target = lines[0]["super"]
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    assert answer(lines, witness_keys=[SEEN])[0] == "tampered"


def test_a_super_log_that_another_key_signed_is_tampered() -> None:
    assert answer(covered(6, 6, key=Ed25519PrivateKey.generate()))[0] == "tampered"


def inclusion_of(count: int, seq: int) -> dict[str, Any]:
    lines = export(count)
    tiles = merkle.Edge(0, {}).extend(bytes.fromhex(line["leaf"]) for line in lines[1:-1])
    path = [merkle.span_hash(span, tiles).hex() for span in merkle.inclusion(seq, count)]
    names = {"format": verifier.INCLUSION, "origin": verifier.ORIGIN, "log_id": LOG, "hashes": path}
    return names | lines[seq + 1] | {"checkpoint": lines[-1]["checkpoint"]}


def consistency_of(count: int, old: int) -> dict[str, Any]:
    lines = export(count)
    tiles = merkle.Edge(0, {}).extend(bytes.fromhex(line["leaf"]) for line in lines[1:-1])
    path = [merkle.span_hash(span, tiles).hex() for span in merkle.consistency(old, count)]
    roots = [merkle.span_hash(merkle.Span(0, size), tiles).hex() for size in (old, count)]
    names = {"format": verifier.CONSISTENCY, "origin": verifier.ORIGIN, "log_id": LOG, "hashes": path}
    sizes = {"old_size": old, "old_root_hash": roots[0], "size": count, "root_hash": roots[1]}
    return names | sizes | {"checkpoint": lines[-1]["checkpoint"]}


def test_an_inclusion_proof_is_verified_offline() -> None:
    proof = inclusion_of(300, 77)
    assert answer([proof])[0] == "ok"
    assert answer([proof], public_keys=[])[0] == "unanchored"
    assert answer([proof], receipts={77: proof["leaf"]})[0] == "ok"
    assert answer([proof], receipts={77: "00" * 32})[0] == "tampered"
    assert answer([proof], public_keys=[], checkpoints=[held(export(300))])[0] == "ok"
    other = held(export(300, sources=[2, 1, *range(3, 301)]))
    assert answer([proof], public_keys=[], checkpoints=[other])[0] == "tampered"
    change: dict[str, Any]
    for change in ({"seq": 78}, {"hashes": proof["hashes"][:-1]}, {"body": "{}"}, {"leaf": "00" * 32}, {"more": 1}):
        assert answer([proof | change])[0] == "tampered", change
    assert answer([proof], public_keys=[SEEN])[0] == "tampered"


def test_a_consistency_proof_is_verified_offline() -> None:
    proof = consistency_of(300, 129)
    assert answer([proof], public_keys=[], checkpoints=[held(export(129))])[0] == "ok"
    assert answer([proof])[0] == "ok"
    assert answer([proof], public_keys=[])[0] == "unanchored"
    other = held(export(129, sources=[2, 1, *range(3, 130)]))
    assert answer([proof], checkpoints=[other])[0] == "tampered"
    change: dict[str, Any]
    for change in ({"old_size": 128}, {"hashes": []}, {"root_hash": "00" * 32}, {"size": 299}, {"origin": "x"}):
        assert answer([proof | change])[0] == "tampered", change


def test_receipts_of_other_logs_are_passed_over(tmp_path: Path) -> None:
    lines = export(4)
    file = tmp_path / "receipts"
    kept = [
        {"log_id": LOG, "seq": 2, "leaf_hash": lines[3]["leaf"]},
        {"log_id": "another", "seq": 3, "leaf_hash": "00" * 32},
        {"log_id": "another", "seq": 99, "leaf_hash": "00" * 32},
    ]
    file.write_text("".join(json.dumps(value) + "\n" for value in kept))
    anchors = verifier.read_anchors([base64.b64encode(PUBLIC).decode()], receipts=[file])
    assert verify(written(lines), anchors).verdict == "ok"
    file.write_text(json.dumps(kept[0] | {"leaf_hash": "11" * 32}))
    assert verify(written(lines), verifier.read_anchors(receipts=[file])).verdict == "tampered"
