"""`triptych providers`: the catalogue, prices and health, by names; and what it says when something is wrong."""

import json
import uuid
from typing import Any

import grpc
import pytest

from services.cli import links
from tests.cli.conftest import Terminal, interrupted
from tests.fakes.model_servers import FakeModels
from tests.patience import within

CREATE = ("providers", "create")
TYPE = ("--type", "openai", "--model", "m")
AT = ("--endpoint", "https://api.example.com")


async def test_a_provider_is_made_changed_listed_and_archived(admin: Terminal, provider: str, fake: FakeModels) -> None:
    shown = await admin.made("providers", "show", provider)
    assert (shown["api_endpoint"], shown["output_cost_usd_per_1k"], shown["max_tokens"]) == (fake.url, "10", 4096)
    assert await admin.made("providers", "show", shown["id"]) == shown
    changed = await admin.made("providers", "update", provider, "--inactive", "--timeout", "7")
    assert (changed.get("active", False), changed["timeout_seconds"], changed["max_tokens"]) == (False, 7, 4096)
    assert "active                 no" in await admin.good("providers", "show", provider)
    assert changed["etag"] != shown["etag"]
    await admin.good("providers", "update", provider, "--active")
    head, *rows = (await admin.good("providers", "list")).splitlines()
    assert head.split() == [
        "name",
        "type",
        "model_name",
        "api_endpoint",
        "active",
        "input_cost_usd_per_1k",
        "output_cost_usd_per_1k",
        "id",
    ]
    assert [row.split()[:2] for row in rows if provider in row] == [[provider, "openai_compatible"]]
    refused = await admin.run("providers", "archive", provider, given="n\n")
    assert (refused.exit_code, "Archive it?" in refused.output) == (1, True)
    assert "archive_time" in await admin.made("providers", "archive", provider, "--yes")
    assert provider not in await admin.good("providers", "list")
    assert f"{provider} is archived for good" in await admin.bad("models", "invoke", "--provider", provider, "hello")
    assert provider in await admin.good("providers", "list", "--archived")
    assert "archive_time" in await admin.good("providers", "show", provider)


async def test_prices_have_versions_and_one_that_is_not_given_stays(admin: Terminal, provider: str) -> None:
    version = await admin.made("providers", "price", "set", provider, "--input-cost", "0.25")
    assert (version["input_cost_usd_per_1k"], version["output_cost_usd_per_1k"]) == ("0.25", "10")
    _, *rows = (await admin.good("providers", "price", "list", provider)).splitlines()
    assert [row.split()[2:4] for row in rows] == [["0.25", "10"], ["0", "10"]]
    assert "--input-cost" in await admin.bad("providers", "price", "set", provider, code=2)


async def test_health_is_listed_and_watched(user: Terminal, provider: str) -> None:
    assert provider in await user.good("providers", "health")
    watched = [
        json.loads(line) for line in (await user.good("providers", "watch", "--seconds", "1", "--json")).splitlines()
    ]
    assert [(one["provider_name"], one["state"]) for one in watched] == [(provider, "HEALTH_STATE_UNKNOWN")]


async def test_a_watch_ends_with_ctrl_c_and_no_failure(user: Terminal, provider: str) -> None:
    process = await user.begin("providers", "watch")
    assert process.stdout is not None
    assert provider in (await within(process.stdout.readline())).decode()
    assert await interrupted(process) == (0, "", "")


async def test_a_list_takes_pages_as_they_are_wanted_over_one_channel(
    admin: Terminal, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admin.good(*CREATE, "second", *TYPE, *AT)
    await admin.good(*CREATE, "third", *TYPE, *AT)
    opened: list[str] = []
    calls: list[str] = []
    connect, call = grpc.insecure_channel, links.Link.call

    def counting(target: str, **options: Any) -> grpc.Channel:
        opened.append(target)
        return connect(target, **options)

    def noting(link: links.Link, kind: Any, method: str, request: Any, **options: Any) -> Any:
        calls.append(method)
        return call(link, kind, method, request, **options)

    monkeypatch.setattr(grpc, "insecure_channel", counting)
    monkeypatch.setattr(links.Link, "call", noting)
    monkeypatch.setattr(links, "PAGE", 1)
    listed = await admin.good("providers", "list", "--json")
    assert len(listed.splitlines()) == 3
    assert (len(opened), calls) == (1, ["ListProviders"] * 3)
    await admin.good("providers", "list", "--limit", "2")
    assert (len(opened), len(calls)) == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((*CREATE, "xy", *TYPE, "--endpoint", "http://api.example.com"), 1, "https://HOST/…; http is for a server on"),
        ((*CREATE, "xy", *TYPE, "--endpoint", "https://10.0.0.1"), 1, "the address is private (ENDPOINT_REFUSED)"),
        ((*CREATE, "xy", *TYPE), 2, "--endpoint"),
        ((*CREATE, "xy", "--type", "openai", *AT), 2, "--model"),
        ((*CREATE, "Bad_Name", *TYPE, *AT), 1, "a name has 2 to 63 letters in lower case, digits and dashes"),
        ((*CREATE, "xy", *TYPE, *AT, "--input-cost", "gratis"), 1, "prices are decimals, in USD for 1,000 tokens"),
        (("providers", "show", "nothing"), 1, "there is no provider nothing: `triptych providers list`"),
        (("providers", "show", str(uuid.uuid4())), 1, "(PROVIDER_NOT_FOUND): `triptych providers list`"),
        (("providers", "update", "nothing"), 2, "--help"),
        (("providers", "list", "--address", "127.0.0.1:1"), 1, "start its stack with `triptych up`, or name another"),
        (("providers", "list", "--address", "example.com:1"), 1, "is not on this machine"),
        (("providers", "list", "--home", "/nowhere"), 1, "no stack was ever started in /nowhere"),
    ],
)  # fmt: skip
async def test_a_mistake_is_told_with_what_to_do(
    admin: Terminal, arguments: tuple[str, ...], code: int, said: str
) -> None:
    assert said in await admin.bad(*arguments, code=code)


async def test_a_name_that_is_taken_and_a_role_that_is_too_low_are_told(
    admin: Terminal, user: Terminal, provider: str
) -> None:
    taken = await admin.bad(*CREATE, provider, *TYPE, *AT)
    assert "(PROVIDER_NAME_TAKEN): `triptych providers list --archived`" in taken
    refused = await user.bad(*CREATE, "xy", *TYPE, *AT)
    assert "(CALLER_NOT_PERMITTED): this is for admins; `triptych whoami` shows your role" in refused


async def test_who_is_not_logged_in_learns_how(admin: Terminal) -> None:
    admin.tokens.unlink()
    assert "`triptych login`" in await admin.bad("providers", "list")
    admin.tokens.write_text('{"access_token"')
    assert "holds no tokens of `triptych login`: log in again" in await admin.bad("providers", "list")


async def test_where_no_home_is_named_it_is_that_of_the_login(
    admin: Terminal, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = admin.home / "elsewhere"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setattr(Terminal, "env", property(lambda one: {"TRIPTYCH_TOKENS": str(one.tokens)}))
    assert "no stack was ever started" in await admin.bad("providers", "list")
    document = json.loads(admin.tokens.read_text())
    admin.tokens.write_text(json.dumps(document | {"home": str(admin.home)}))
    assert provider in await admin.good("providers", "list")
