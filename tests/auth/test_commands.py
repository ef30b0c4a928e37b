"""The commands for people, tenants, agents and one's own account, as somebody types them."""

import json
import re
from pathlib import Path

import pytest

from tests.auth.commands import Done, run
from tests.auth.people import PASSWORD, People, Somebody


async def good(*arguments: str, given: str = "") -> Done:
    """Run a command that succeeds."""
    done = await run(*arguments, given=given)
    assert done.exit_code == 0, done.errors
    return done


@pytest.fixture
async def user(admin: Somebody, home: Path) -> Somebody:
    """An admin who is logged in on the command line."""
    await good("login", "--home", str(home), "--email", admin.email, given=f"{PASSWORD}\n")
    return admin


async def test_an_admin_invites_lists_and_looks_after_people(people: People, user: Somebody) -> None:
    code = (await good("invitations", "create", "--role", "viewer", "--days", "1")).output.strip()
    guest = await people.join(code)
    assert "viewer" in (await good("invitations", "list")).output
    listed = (await good("users", "list")).output
    assert guest.email in listed
    assert listed.splitlines()[0].split()[:2] == ["id", "email"]
    found = json.loads((await good("users", "list", "--query", guest.email, "--json")).output)
    assert (found["id"], found["role"]) == (guest.id, "ROLE_VIEWER")
    shown = (await good("users", "deactivate", guest.id, "--reason", "left")).output
    assert "deactivate_time" in shown
    assert guest.email not in (await good("users", "list", "--active")).output
    await good("users", "reactivate", guest.id)
    await good("users", "unlock", guest.id)
    assert "user" in (await good("members", "set", guest.id, "--role", "user", "--tier", "3")).output
    assert guest.id in (await good("members", "list", "--by-rank")).output
    await good("members", "remove", guest.id)
    assert guest.id not in (await good("members", "list")).output
    missing = await run("users", "show", guest.id)
    assert (missing.exit_code, "USER_NOT_FOUND" in missing.errors) == (1, True)


async def test_lists_go_on_over_pages(people: People, user: Somebody) -> None:
    for _ in range(3):
        await user.invite()
    assert len((await good("invitations", "list", "--limit", "2", "--json")).output.splitlines()) == 2
    assert len((await good("invitations", "list", "--json")).output.splitlines()) >= 3


async def test_somebody_makes_a_tenant_goes_there_and_comes_back(user: Somebody) -> None:
    slug = f"t-{user.id[-12:]}"
    await good("tenants", "create", slug, "--name", "Second")
    await good("tenants", "switch", slug)
    assert slug in (await good("tenants", "show")).output
    await good("tenants", "switch", user.tenant_id)
    listed = (await good("tenants", "list")).output
    assert slug in listed
    assert user.tenant_id in listed
    assert "you belong to no tenant nowhere" in (await run("tenants", "switch", "nowhere")).errors
    refused = await run("tenants", "delete", slug, "--yes")
    assert "(REAUTHENTICATION_REQUIRED): `triptych reauthenticate`" in refused.errors


async def test_an_agent_is_made_issued_rotated_and_ended(people: People, user: Somebody) -> None:
    made = (await good("agents", "create", "watcher", "--scope", "agents.get", "--json")).output
    agent = json.loads(made)["id"]
    secret = (await good("agents", "issue", agent, "--name", "first", "--days", "90")).output.strip()
    assert re.fullmatch(r"tra_[0-9a-f]{32}_[A-Za-z0-9_-]{43}_[0-9a-f]{8}", secret)
    assert secret not in (await good("agents", "credentials", agent)).output
    credential = json.loads((await good("agents", "credentials", agent, "--json")).output)["id"]
    assert (await good("agents", "rotate", credential)).output.strip() != secret
    await good("agents", "revoke", credential)
    assert "none" in (await good("agents", "uses", credential)).output
    await good("agents", "status", agent, "inactive", "--reason", "holidays")
    assert "inactive" in (await good("agents", "list")).output
    unknown = await run("agents", "create", "x", "--scope", "no.such")
    assert "SCOPE_UNKNOWN" in unknown.errors
    assert "log in again" not in unknown.errors
    assert "agents.get" in (await good("agents", "scopes")).output.split()


async def test_a_secret_is_exchanged_and_a_session_is_left(people: People, user: Somebody, home: Path) -> None:
    agent = json.loads((await good("agents", "create", "reader", "--scope", "agents.get", "--json")).output)["id"]
    secret = (await good("agents", "issue", agent)).output.strip()
    token = (await good("agents", "exchange", "--home", str(home), given=f"{secret}\n")).output
    assert token.splitlines()[-1].count(".") == 2
    assert "logged out" in (await good("logout")).output
    assert "triptych login" in (await run("whoami")).errors


async def test_a_folder_without_a_stack_gets_no_password(tmp_path: Path) -> None:
    refused = await run("login", "--home", str(tmp_path / "nowhere"), "--email", "a@example.com", given="secret\n")
    assert "no stack was ever started" in refused.errors


async def test_a_second_factor_is_set_up_and_asked_for(user: Somebody, home: Path) -> None:
    assert "triptych factors totp" in (await good("factors", "show")).output
    refused = await run("factors", "totp", given="000000\n")
    assert "REAUTHENTICATION_REQUIRED" in refused.errors
    await good("reauthenticate", given=f"{PASSWORD}\n")
    wrong = await run("factors", "totp", given="000000\n")
    assert "ENROLLMENT_INVALID" in wrong.errors
    assert "type the secret into the app" in wrong.output
    assert "█" in wrong.output or "▀" in wrong.output


async def test_a_password_is_changed_and_the_next_command_goes_on(user: Somebody) -> None:
    new = "another lamp, another heron"
    wrong = await run("password", "change", given=f"no such one at all\n{new}\n{new}\n")
    assert "LOGIN_FAILED" in wrong.errors
    await good("password", "change", given=f"{PASSWORD}\n{new}\n{new}\n")
    assert user.email in (await good("whoami")).output


async def test_a_forgotten_password_is_replaced_by_mail(people: People, user: Somebody, home: Path) -> None:
    where = ("--home", str(home))
    await good("password", "forgot", *where, "--email", user.email)
    code = await people.code(user.email, "password")
    new = "a third lamp, a third heron"
    await good("password", "reset", *where, code, given=f"{new}\n{new}\n")
    assert "TOKEN_INVALID" in (await run("users", "list")).errors
    await good("login", *where, "--email", user.email, given=f"{new}\n")


async def test_sessions_and_security_events_are_listed(user: Somebody) -> None:
    listed = (await good("sessions", "list")).output
    assert "triptych command line" in listed
    assert "auth.session.create" in (await good("security-events", "--action", "auth.session.*")).output
    assert "revoked" in (await good("sessions", "revoke-all", "--keep-current", "--yes")).output
    assert user.email in (await good("whoami")).output


async def test_a_device_stays_known_from_one_login_to_the_next(user: Somebody, home: Path) -> None:
    kept = home / "user" / "tokens.json"
    first = json.loads(kept.read_text())["devices"]
    assert len(first) == 1
    await good("login", "--home", str(home), "--email", user.email, given=f"{PASSWORD}\n")
    assert json.loads(kept.read_text())["devices"].keys() == first.keys()


async def test_every_command_has_help() -> None:
    for command in ("users", "members", "invitations", "tenants", "agents", "sessions", "factors", "password"):
        assert "Commands:" in (await good(command, "--help")).output
