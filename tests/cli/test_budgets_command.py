"""`triptych budgets`: limits of owners and of the tenant, warnings, and a quota that is used up."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Terminal
from tests.patience import eventually

ASK = ("--max-tokens", "5", "hello there")


@pytest.fixture
async def spent(admin: Terminal, user: Terminal, provider: str, key: dict[str, Any]) -> str:
    """A provider whose user has had two answers of four cents within thirteen."""
    email = user.person.email
    await admin.good("budgets", "set", "--owner", email, "--daily-cost", "0.14", "--monthly-cost", "none")
    for _ in range(2):
        await user.good("models", "invoke", "--provider", provider, *ASK)
    return provider


async def test_limits_are_set_one_by_one_and_lifted(admin: Terminal, user: Terminal) -> None:
    assert "what their role has" in await user.good("budgets", "show")
    email = user.person.email.upper()
    before = (await user.made("budgets", "show"))["quota"]
    stored = await admin.made("budgets", "set", "--owner", email, "--daily-requests", "7", "--daily-cost", "none")
    assert (stored["daily_requests"], "daily_cost_usd" in stored) == ("7", False)
    assert stored["monthly_requests"] == before["monthly_requests"]
    shown = await user.good("budgets", "show")
    assert "set for them" in shown
    assert ["daily_requests", "7", "0", "0"] in [line.split()[:4] for line in shown.splitlines()]
    by_id = await admin.made("budgets", "show", "--owner", f"user:{user.person.id}")
    assert by_id == await admin.made("budgets", "show", "--owner", user.person.email)
    assert by_id == await admin.made("budgets", "show", "--owner", user.person.id)


async def test_an_agent_is_named(admin: Terminal) -> None:
    agent = await admin.made("agents", "create", "reviewer", "--scope", "models.invoke")
    stored = await admin.made("budgets", "set", "--owner", "agent:reviewer", "--daily-tokens", "1000")
    assert stored["owner"] == {"kind": "PRINCIPAL_KIND_AGENT", "id": agent["id"]}
    assert (await admin.made("budgets", "show", "--owner", f"agent:{agent['id']}"))["quota"] == stored
    assert "`triptych agents list`" in await admin.bad("budgets", "show", "--owner", "agent:nobody")


async def test_the_tenant_is_switched_and_limited(
    admin: Terminal, user: Terminal, provider: str, key: dict[str, Any]
) -> None:
    shown = await admin.good("budgets", "show", "--tenant")
    assert "ai_enabled             yes" in shown
    off = await admin.good("budgets", "set", "--tenant", "--no-ai", "--monthly-cost", "2000")
    assert "ai_enabled             no" in off
    assert "monthly_cost_usd       2000" in off
    refused = await user.bad("models", "invoke", "--provider", provider, "hello")
    assert "(AI_DISABLED): an admin switches it on with `triptych budgets set --tenant --ai`" in refused
    assert "UpdateTenantAiConfig" not in refused
    on = await admin.made("budgets", "set", "--tenant", "--ai", "--monthly-cost", "none", "--platform-key")
    assert (on["ai_enabled"], on["platform_key_allowed"], "monthly_cost_usd" in on) == (True, True, False)
    await user.good("models", "invoke", "--provider", provider, "hello")


async def test_a_quota_that_is_used_up_is_told_with_what_to_do(user: Terminal, spent: str) -> None:
    await user.good("models", "invoke", "--provider", spent, *ASK)
    said = await user.bad("models", "invoke", "--provider", spent, *ASK)
    assert "daily_cost_usd: the limit is 0.14; again in " in said
    assert "`triptych budgets show` says where you stand" in said


async def test_warnings_are_listed_watched_and_noted(admin: Terminal, user: Terminal, spent: str) -> None:
    assert "none" in await user.good("budgets", "alerts")
    await user.good("models", "invoke", "--provider", spent, *ASK)
    alerts = [json.loads(line) for line in (await user.good("budgets", "alerts", "--json")).splitlines()]
    assert [alert["threshold_percent"] for alert in alerts] == [80]
    assert f"user:{user.person.id}" in await admin.good("budgets", "alerts")
    watch = ("budgets", "watch", "--seconds", "1")
    watched = await eventually(lambda: user.good(*watch))  # nothing that began before may still be under way
    assert f"user:{user.person.id} used 80 % of daily:" in watched
    noted = await user.good("budgets", "ack", alerts[0]["id"])
    assert noted.splitlines()[1].split()[-1] == alerts[0]["id"]
    assert "none" in await user.good("budgets", "alerts")
    assert alerts[0]["id"] in await user.good("budgets", "alerts", "--all")
    assert await user.good(*watch) == ""
    for_programs = json.loads(await user.good(*watch, "--json"))
    after = ("--after", for_programs["resume_token"])
    assert await user.good(*watch, "--json", *after) == ""


async def test_all_warnings_are_noted_at_once(admin: Terminal, user: Terminal, spent: str) -> None:
    await user.good("models", "invoke", "--provider", spent, *ASK)
    assert "80 %" in await admin.good("budgets", "ack", "--all")
    assert "none" in await user.good("budgets", "alerts")
    assert "none" in await admin.good("budgets", "ack", "--all")


async def test_a_role_may_use_what_it_is_allowed(
    admin: Terminal, user: Terminal, provider: str, key: dict[str, Any]
) -> None:
    assert "users may use no provider" in await admin.good("budgets", "allow", "user", "--none")
    refused = await user.bad("models", "invoke", "--provider", provider, "hello")
    assert "(PROVIDER_NOT_ALLOWED): an admin sees with `triptych budgets show --tenant`" in refused
    both = await admin.good("budgets", "allow", "viewer", provider)
    assert f"viewers may use {provider}" in both
    assert "users may use no provider" in both
    assert "may use" not in (await admin.good("budgets", "allow", "user", "--all")).replace("viewers may use", "")
    await user.good("models", "invoke", "--provider", provider, "hello")
    assert "--all or --none" in await admin.bad("budgets", "allow", "user", code=2)


async def test_the_tenant_pays_what_it_agreed(
    admin: Terminal, user: Terminal, provider: str, key: dict[str, Any]
) -> None:
    own = ("budgets", "price", provider, "--input-cost", "0", "--output-cost", "5")
    assert f"{provider} costs the tenant 0 in, 5 out" in await admin.good(*own)
    ask = ("models", "invoke", "--provider", provider, "hello")
    assert (await user.made(*ask))["invocation"]["cost_usd"] == "0.02"
    assert "costs the tenant" not in await admin.good("budgets", "price", provider, "--catalogue")
    assert (await user.made(*ask))["invocation"]["cost_usd"] == "0.04"
    assert "--catalogue" in await admin.bad("budgets", "price", provider, "--input-cost", "1", code=2)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["set"], 2, "--help"),
        (["set", "--daily-cost", "five"], 2, "give a number, 0 to forbid, or `none`"),
        (["set", "--daily-requests", "1.5"], 2, "--daily-requests takes whole numbers"),
        (["set", "--no-ai"], 2, "--ai is for the whole tenant: give it with --tenant"),
        (["set", "--tenant", "--concurrent-requests", "1"], 2, "leave out --tenant"),
        (["show", "--tenant", "--owner", "a@example.com"], 2, "not both"),
        (["show", "--owner", "a@example.com"], 1, "nobody here has the address a@example.com: `triptych users list`"),
        (["show", "--owner", "somebody"], 2, "give ada@example.com, user:ID, agent:NAME or agent:ID"),
        (["ack"], 2, "`triptych budgets alerts`"),
        (["ack", "123"], 1, "`triptych budgets alerts` shows the ids"),
        (["ack", "0197a1fc-d3f0-7587-835a-0d230b7303e9"], 1, "(COST_ALERT_NOT_FOUND): `triptych budgets alerts`"),
    ],
)
async def test_a_mistake_is_told_with_what_to_do(admin: Terminal, arguments: list[str], code: int, said: str) -> None:
    assert said in await admin.bad("budgets", *arguments, code=code)


async def test_what_others_may_use_is_for_admins(admin: Terminal, user: Terminal) -> None:
    for arguments in (["show", "--tenant"], ["set", "--daily-cost", "1"], ["show", "--owner", admin.person.email]):
        assert "this is for admins" in await user.bad("budgets", *arguments)
    other = await user.bad("budgets", "show", "--owner", admin.person.id)
    assert "(QUOTA_NOT_FOUND): only admins see what others may use" in other
