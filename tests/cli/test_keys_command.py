"""`triptych keys`: a key goes in by a prompt or a pipe, and is never an argument and never printed."""

import json
from typing import Any

import pytest

from services.kit import faults
from services.kit.db import Transaction
from services.providers import keys
from tests.cli.conftest import KEY, OTHER_KEY, Terminal
from tests.fakes.model_servers import FakeModels
from triptych.providers.v1.key_service_pb2 import RevokeKeyRequest, RevokeKeyResponse

SECRET = "sk-demo-SECRETsecretSECRETsecret"


async def test_a_key_is_stored_shown_rotated_and_revoked(user: Terminal, provider: str, key: dict[str, Any]) -> None:
    assert (key["label"], key["prefix"], key["last_four"]) == ("laptop", "sk-demo-", KEY[-4:])
    shown = await user.good("keys", "show", "laptop")
    assert "state                  active" in shown
    assert "use_count              0" in shown
    rotated = await user.run("keys", "rotate", "laptop", "--key-stdin", given=f"{OTHER_KEY}\n")
    assert f"the one before, {key['id']}, is rotating and ends at" in rotated.stderr
    head, *rows = (await user.good("keys", "list")).splitlines()
    assert head.split()[:5] == ["label", "provider", "key", "state", "use_count"]
    assert [row.split()[1:4] for row in rows] == [
        [provider, f"sk-demo-…{OTHER_KEY[-4:]}", "active"], [provider, f"sk-demo-…{KEY[-4:]}", "rotating"],
    ]  # fmt: skip
    assert (await user.made("keys", "validate", "laptop"))["state"] == "KEY_STATE_ACTIVE"
    kept = await user.run("keys", "revoke", "laptop", given="n\n")
    assert (kept.exit_code, "Revoke it?" in kept.output) == (1, True)
    revoked = await user.run("keys", "revoke", "laptop", "--yes")
    assert "state                  revoked" in revoked.stdout
    assert f"`triptych keys revoke {key['id']}`" in revoked.stderr  # the one before is used again
    await user.good("keys", "revoke", key["id"], "--yes")
    assert "none" in await user.good("keys", "list")
    assert (await user.good("keys", "list", "--all")).count("revoked") == 2
    assert "`triptych keys list`" in await user.bad("keys", "revoke", "laptop", "--yes")
    assert KEY not in shown + rotated.output + revoked.output
    assert OTHER_KEY not in shown + rotated.output + revoked.output


async def test_a_key_can_be_revoked_with_all_that_it_replaced(
    user: Terminal, provider: str, key: dict[str, Any]
) -> None:
    await user.good("keys", "rotate", "laptop", "--key-stdin", given=f"{OTHER_KEY}\n")
    third = await user.made("keys", "rotate", "laptop", "--key-stdin", given=f"{KEY}-3\n")
    await user.good("keys", "store", provider, "--label", "desk", "--key-stdin", given=f"{OTHER_KEY}-4")
    done = await user.run("keys", "revoke", "laptop", "--with-predecessors", "--yes", "--json")
    assert done.exit_code == 0, done.output
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [ended[0]["id"], ended[2]["id"]] == [key["id"], third["id"]]  # the oldest first
    assert {one["state"] for one in ended} == {"KEY_STATE_REVOKED"}
    assert "is used until" not in done.stderr
    _, *rows = (await user.good("keys", "list")).splitlines()
    assert [row.split()[0] for row in rows] == ["desk"]


async def test_who_revokes_several_keys_is_told_which_are_left(
    user: Terminal, provider: str, key: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await user.made("keys", "rotate", "laptop", "--key-stdin", given=f"{OTHER_KEY}\n")
    revoke = keys.revoke

    async def fail(tx: Transaction, request: RevokeKeyRequest) -> RevokeKeyResponse:
        if request.key_id == second["id"]:
            raise faults.DependencyUnavailable("it is away")
        return await revoke(tx, request)

    with monkeypatch.context() as away:
        away.setattr(keys, "revoke", fail)
        done = await user.run("keys", "revoke", "laptop", "--with-predecessors", "--yes", "--json")
    assert (done.exit_code, json.loads(done.stdout)["id"]) == (1, key["id"])
    assert f"; sk-demo-…{OTHER_KEY[-4:]} may be left: call it again" in done.stderr
    assert second["id"] in await user.good("keys", "revoke", "laptop", "--with-predecessors", "--yes")


async def test_each_key_that_opens_again_is_told(user: Terminal, provider: str, key: dict[str, Any]) -> None:
    second = await user.made("keys", "rotate", "laptop", "--key-stdin", given=f"{OTHER_KEY}\n")
    third = await user.made("keys", "rotate", "laptop", "--key-stdin", given=f"{KEY}-3\n")
    early = await user.run("keys", "revoke", key["id"], "--yes", "--with-predecessors")
    assert (early.exit_code, early.stdout.count("revoked")) == (0, 2)  # the state and its reason, of one key
    done = await user.run("keys", "revoke", "laptop", "--yes")
    assert third["id"] in done.stdout
    assert done.stderr.count("is used until") == 1
    assert f"`triptych keys revoke {second['id']}`" in done.stderr


async def test_a_key_is_asked_for_unseen_and_may_have_an_end(user: Terminal, provider: str) -> None:
    done = await user.run("keys", "store", provider, "--expires", "2050-01-31", "--json", given=f"{KEY}\n")
    assert done.exit_code == 0, done.output
    assert KEY not in done.output
    assert json.loads(done.stdout.splitlines()[-1])["expire_time"] == "2050-01-31T00:00:00Z"
    again = await user.bad("keys", "store", provider, "--label", "second", "--key-stdin", given=KEY)
    assert "(KEY_EXISTS): `triptych keys list` shows it" in again


@pytest.mark.parametrize("verb", ["store", "rotate"])
@pytest.mark.parametrize("leak", [(SECRET,), ("--key", SECRET), ("--api-key", SECRET), (f"--key={SECRET}",)])
async def test_a_key_as_an_argument_is_refused_and_not_repeated(
    user: Terminal, provider: str, verb: str, leak: tuple[str, ...], fake: FakeModels
) -> None:
    said = await user.bad("keys", verb, provider, *leak, code=2)
    assert "a key is never an argument" in said
    assert "shell's history" in said
    assert SECRET not in said
    assert not fake.requests


async def test_a_key_in_the_place_of_a_name_is_not_repeated(user: Terminal, provider: str) -> None:
    for arguments in (("store", SECRET), ("revoke", SECRET), ("show", SECRET)):
        assert SECRET not in await user.bad("keys", *arguments)


async def test_what_is_wrong_with_a_key_is_told(user: Terminal, provider: str, key: dict[str, Any]) -> None:
    wrong = await user.bad("keys", "store", provider, "--key-stdin", given="sk-wrong-0123456789abcdef")
    assert "(KEY_REJECTED_BY_PROVIDER): look at the key at the provider" in wrong
    for given in ("short", "two words here", ""):
        assert "8 to 512 visible" in await user.bad("keys", "store", provider, "--key-stdin", given=given)
    past = await user.bad("keys", "store", provider, "--expires", "2020-01-01", "--key-stdin", given=OTHER_KEY)
    assert "--expires must be in the future" in past
    assert "give 2026-08-01" in await user.bad("keys", "store", provider, "--expires", "soon", code=2)


async def test_two_keys_of_one_label_are_told_apart_by_their_ids(
    admin: Terminal, user: Terminal, provider: str, key: dict[str, Any]
) -> None:
    other = await admin.made("keys", "store", provider, "--label", "laptop", "--key-stdin", given=OTHER_KEY)
    said = await admin.bad("keys", "show", "laptop")  # an admin sees those of all
    assert "name one by its id" in said
    assert key["id"] in said
    assert other["id"] in said
    assert (await user.made("keys", "show", "laptop"))["id"] == key["id"]


async def test_the_operator_s_commands_are_where_they_were(user: Terminal) -> None:
    said = await user.good("keys", "--help")
    assert all(name in said for name in ("store", "rotate-kek", "rewrap", "retire", "status"))
    for name in ("rotate-kek", "rewrap", "retire", "status"):
        assert "--identity" in await user.good("keys", name, "--help")
