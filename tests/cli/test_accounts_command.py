"""People by their addresses, passwords by a pipe, and what is asked before all sessions end."""

import json

from tests.auth.people import PASSWORD, People
from tests.cli.conftest import Terminal
from tests.patience import eventually


async def test_people_are_named_by_their_addresses(admin: Terminal, user: Terminal) -> None:
    email = user.person.email
    assert (await admin.made("users", "show", email))["id"] == user.person.id
    assert (await admin.made("members", "set", email, "--tier", "3"))["tier"] == 3
    assert user.person.id in await admin.good("security-events", "--user", email)
    assert "nobody here has the address x@example.com" in await admin.bad("users", "deactivate", "x@example.com")
    assert "this is for admins" in await user.bad("users", "show", admin.person.email)


async def test_all_sessions_end_once_somebody_says_yes(admin: Terminal, user: Terminal) -> None:
    kept = await user.run("sessions", "revoke-all", given="n\n")
    assert (kept.exit_code, "All your sessions end" in kept.output) == (1, True)
    await user.good("whoami")
    assert "1 revoked" in await admin.good("sessions", "revoke-all", "--user", user.person.email, "--yes")
    # Its access token counts until the revocation has been told.
    await eventually(lambda: user.run("sessions", "list"), lambda done: done.exit_code != 0)
    assert "`triptych login" in await user.bad("sessions", "list")


async def test_a_password_comes_by_a_pipe(people: People, admin: Terminal) -> None:
    code, address = await admin.person.invite(), people.address()
    name = ("--invitation", code, "--email", address, "--name", "Linus")
    await admin.good("register", *name, "--password-stdin", given=f"{PASSWORD}\n")
    await admin.good("verify-email", await people.code(address))
    said = await admin.good("login", "--email", address, "--password-stdin", given=f"{PASSWORD}\n")
    assert f"logged in as {address}" in said
    assert PASSWORD not in said
    assert json.loads(admin.tokens.read_text())["home"] == str(admin.home)
    assert address in await admin.good("whoami")


async def test_a_login_writes_tokens_anew_that_cannot_be_read(admin: Terminal) -> None:
    admin.tokens.write_text("{bad")
    email = admin.person.email
    await admin.good("login", "--email", email, "--password-stdin", given=f"{PASSWORD}\n")
    assert email in await admin.good("whoami")
