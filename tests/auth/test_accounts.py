"""The commands that get people into a stack, and the bootstrap of a tenant."""

import asyncio
import json
import stat
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.auth import bootstrap
from services.auth.bootstrap import BootstrapRefused
from services.cli.stack import settings
from services.kit import faults
from tests.auth.commands import run
from tests.auth.people import PASSWORD, People, Somebody
from triptych.common.v1.role_pb2 import Role


async def test_a_tenant_with_an_admin_is_not_bootstrapped_again(people: People) -> None:
    db = people.suite.runtimes["auth"].db
    first = await bootstrap.invite(db, "acme-once")
    second = await bootstrap.invite(db, "acme-once")  # nobody used the first, which ends
    with pytest.raises(Exception, match="invitation"):
        await people.register(first)
    await people.join(second)
    with pytest.raises(BootstrapRefused, match="has an admin"):
        await bootstrap.invite(db, "acme-once")


async def test_an_admin_whose_mail_was_lost_does_not_lock_the_tenant(people: People) -> None:
    db = people.suite.runtimes["auth"].db
    await people.register(await bootstrap.invite(db, "acme-lost"))
    admin = await people.join(await bootstrap.invite(db, "acme-lost"))
    with pytest.raises(BootstrapRefused, match="has an admin"):
        await bootstrap.invite(db, "acme-lost")
    async with people.database() as connection:
        await connection.execute("UPDATE users SET disable_time = now() WHERE id = $1", admin.id)
    assert await bootstrap.invite(db, "acme-lost")


async def test_parallel_bootstraps_make_one_tenant(people: People) -> None:
    db = people.suite.runtimes["auth"].db
    codes = await asyncio.gather(*(bootstrap.invite(db, "acme-parallel") for _ in range(5)))
    assert len({code.split("_")[1] for code in codes}) == 1


@pytest.mark.parametrize("slug", ["A", "ab", "-abc", "abc-", "a" * 41, "a b c"])
async def test_a_bad_slug_is_explained(people: People, slug: str) -> None:
    with pytest.raises(BootstrapRefused, match="slug"):
        await bootstrap.invite(people.suite.runtimes["auth"].db, slug)


async def test_bootstrap_admin_prints_an_invitation_that_works(people: People, home: Path) -> None:
    done = await run("bootstrap-admin", "--home", str(home), "--tenant", "acme-cli")
    assert done.exit_code == 0, done.errors
    assert (await people.join(done.output.strip())).login.user.role == Role.ROLE_ADMIN
    again = await run("bootstrap-admin", "--home", str(home), "--tenant", "acme-cli")
    assert again.exit_code == 1
    assert again.errors.startswith("Error: acme-cli has an admin: ask them for an invitation (`triptych invitations")


async def test_bootstrap_admin_says_when_there_is_no_stack(tmp_path: Path) -> None:
    found = await run("bootstrap-admin", "--home", str(tmp_path), "--tenant", "acme")
    assert found.exit_code == 1
    assert "triptych up" in found.errors


async def test_bootstrap_admin_on_a_stopped_stack_says_to_start_it(people: People, home: Path) -> None:
    values = people.suite.values("auth") | {"database_url": "postgresql://auth@127.0.0.1:1/triptych"}
    (home / "config" / "auth.toml").write_text(settings.toml(values))
    found = await run("bootstrap-admin", "--home", str(home), "--tenant", "acme")
    assert found.exit_code == 1
    assert "start the stack with `triptych up`" in found.errors
    assert len(found.errors.splitlines()) == 1


async def test_kept_tokens_that_nobody_takes_say_where_they_came_from(admin: Somebody, home: Path) -> None:
    kept = home / "user" / "tokens.json"
    kept.parent.mkdir()
    tokens = admin.login.tokens
    document = {"address": "127.0.0.1:1", "access_token": tokens.access_token, "refresh_token": tokens.refresh_token}
    for expire_time in (0, tokens.access_expire_time.seconds):
        kept.write_text(json.dumps(document | {"access_expire_time": expire_time}))
        found = await run("whoami")
        assert found.exit_code == 1
        assert "the auth service at 127.0.0.1:1: start its stack with `triptych up`, or wait" in found.errors


async def test_login_keeps_tokens_that_nobody_else_reads_and_whoami_uses_them(
    people: People, admin: Somebody, home: Path
) -> None:
    found = await run("login", "--home", str(home), "--email", admin.email, given=f"{PASSWORD}\n")
    assert found.exit_code == 0, found.errors
    kept = home / "user" / "tokens.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert PASSWORD not in found.output + kept.read_text()
    async with people.database() as connection:
        slug = await connection.fetchval("SELECT slug FROM tenants WHERE id = $1", admin.tenant_id)
    named = f"{slug} ({admin.tenant_id})"
    assert found.output.startswith(f"logged in as {admin.email} in tenant {named}; tokens are in ")
    assert (await run("whoami")).output == f"{admin.email}  {admin.id}  admin  {named}\n"
    document = json.loads(kept.read_text())
    kept.write_text(json.dumps(document | {"access_expire_time": 0}))
    assert admin.id in (await run("whoami")).output
    assert json.loads(kept.read_text())["refresh_token"] != document["refresh_token"]


async def test_somebody_comes_in_by_commands_alone(people: People, admin: Somebody, home: Path) -> None:
    where = ("--home", str(home))
    address = "carol@example.com"
    invitation = await admin.invite()
    given = f"{PASSWORD}\n{PASSWORD}\n"
    registered = await run(
        "register", *where, "--invitation", invitation, "--email", address, "--name", "Carol", given=given
    )
    assert registered.exit_code == 0, registered.errors
    code = await people.code(address)
    refused = await run("verify-email", *where, code[:-1] + ("A" if code[-1] != "A" else "B"))
    assert "VERIFICATION_INVALID" in refused.errors
    verified = await run("verify-email", *where, code)
    assert verified.exit_code == 0, verified.errors
    found = await run("login", *where, "--email", address, given=f"{PASSWORD}\n")
    assert found.exit_code == 0, found.errors
    token = (await run("token")).output.strip()
    assert token.count(".") == 2


async def test_a_login_that_fails_says_why_in_the_services_words(admin: Somebody, home: Path) -> None:
    found = await run("login", "--home", str(home), "--email", admin.email, given="wrong\n")
    assert found.exit_code == 1
    assert "LOGIN_FAILED" in found.errors
    assert "triptych login" in (await run("whoami")).errors


async def test_a_password_does_not_leave_the_machine_in_clear(home: Path) -> None:
    found = await run("login", "--address", "example.com:7510", "--email", "a@example.com", given="x\n")
    assert found.exit_code == 1
    assert "not on this machine" in found.errors


async def test_mail_lists_and_shows(people: People, admin: Somebody, home: Path) -> None:
    address = await people.register(await admin.invite())
    code = await people.code(address)
    listed = (await run("mail", "--home", str(home))).output
    assert address in listed.splitlines()[0]
    shown = (await run("mail", "--home", str(home), "1")).output
    assert code in shown
    assert "\r" not in shown
    assert "there is no mail 100000: there " in (await run("mail", "--home", str(home), "100000")).errors


async def test_an_empty_mailbox_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{}")
    assert "no mail yet" in (await run("mail", "--home", str(tmp_path))).output
    assert "no mail yet" in (await run("mail", "--home", str(tmp_path), "1")).errors


@pytest.mark.parametrize("time", [Timestamp(seconds=-(10**12)), Timestamp(seconds=2_000_000_000, nanos=-5)])
async def test_an_invitation_that_ends_at_no_moment_is_refused(admin: Somebody, time: Timestamp) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await admin.invite(expire_time=time)
    assert "invitation.expire_time" in caught.value.violations
