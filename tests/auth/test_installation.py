"""Who runs an installation: admins of its own tenant, who read what no other tenant sees."""

import asyncio
import json
from pathlib import Path

import pytest

from services.audit.verifier import EXIT_CODES
from services.auth import bootstrap
from services.auth.bootstrap import BootstrapRefused
from services.auth.tenants import RESERVED
from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database
from tests.auth.commands import Done, run
from tests.auth.people import PASSWORD, People, Somebody
from tests.conftest import copy_database
from tests.patience import eventually
from tests.suite import Suite, superuser_of
from triptych.auth.v1 import tenant_service_pb2 as pb
from triptych.auth.v1.tenant_pb2 import Tenant
from triptych.auth.v1.tenant_service_pb2_grpc import TenantServiceStub
from triptych.common.v1.role_pb2 import Role


@pytest.fixture
async def operator(people: People, home: Path) -> Somebody:
    """An admin of the installation, logged in on the command line; audit runs as well."""
    await people.suite.start("auth", "audit")
    ports = {f"{name}.plaintext": each.plaintext_port for name, each in people.suite.runtimes.items()}
    (home / "ports.json").write_text(json.dumps(ports))
    async with people.database() as connection:  # another test of this worker may have had one
        await connection.execute("UPDATE memberships SET remove_time = now() WHERE tenant_id = $1", SYSTEM_TENANT)
    invitation = await good("bootstrap-admin", "--home", str(home), "--installation")
    somebody = await people.join(invitation.output.strip())
    await good("login", "--home", str(home), "--email", somebody.email, "--password-stdin", given=f"{PASSWORD}\n")
    return somebody


async def good(*arguments: str, given: str = "") -> Done:
    """Run a command that succeeds."""
    done = await run(*arguments, given=given)
    assert done.exit_code == 0, done.errors
    return done


async def answered(*arguments: str) -> Done:
    """Run a command until it succeeds and gives something, as the log needs a moment to be signed."""
    return await eventually(
        lambda: run(*arguments), lambda done: done.exit_code == 0 and done.output.strip() not in ("", "none")
    )


async def test_the_operator_of_an_installation_reads_its_log(operator: Somebody, home: Path, tmp_path: Path) -> None:
    assert (operator.tenant_id, operator.login.user.role) == (SYSTEM_TENANT, Role.ROLE_ADMIN)
    assert f"admin  system ({SYSTEM_TENANT})" in (await good("whoami")).output
    where = ("--home", str(home))
    found = await answered("audit", "search", "--action", "auth.invitation.create", *where)
    assert "bootstrap" in found.output
    listed = await answered("audit", "sources", *where)
    assert any(line.split()[:2] == ["auth", "system"] for line in listed.output.splitlines()), listed.output
    file = tmp_path / "system.jsonl"
    assert "of log system, signed" in (await answered("audit", "export", str(file), *where)).output
    # What others did to this log here is not the question; whoever may not see it is told 64.
    assert (await run("audit", "verify", *where)).exit_code in EXIT_CODES.values()
    alone = await run("audit", "verify", str(file))  # without a key from elsewhere it is never ok
    assert alone.exit_code in set(EXIT_CODES.values()) - {EXIT_CODES["ok"]}
    again = await run("audit", "export", str(file), *where)
    assert (again.exit_code, "give --force" in again.errors) == (64, True)
    await good("audit", "export", str(file), "--force", *where)


async def test_the_installation_has_an_admin_once_and_stays(operator: Somebody, home: Path) -> None:
    again = await run("bootstrap-admin", "--home", str(home), "--installation")
    assert again.exit_code == 1
    assert again.errors.startswith("Error: the installation has an admin: ask them for an invitation (`triptych inv")
    listed = await good("tenants", "list")  # and none of the others, which the system tenant may read
    assert [line.split()[1] for line in listed.output.splitlines()] == ["slug", "system"]
    await operator.reauthenticate()
    with pytest.raises(faults.InvalidArgument, match="which stays"):
        await operator.stub(TenantServiceStub).DeleteTenant(pb.DeleteTenantRequest(slug="system"))


async def test_an_admin_of_a_tenant_is_sent_to_the_operator(operator: Somebody, people: People, home: Path) -> None:
    admin = await people.admin()
    await good("login", "--home", str(home), "--email", admin.email, "--password-stdin", given=f"{PASSWORD}\n")
    refused = await run("audit", "sources", "--home", str(home))
    assert (refused.exit_code, "`triptych bootstrap-admin --installation`" in refused.errors) == (64, True)
    assert "this is for admins" not in refused.errors


async def test_an_ordinary_tenant_that_has_the_slug_keeps_it(suite: Suite, tmp_path: Path) -> None:
    name = f"{suite.database}_slug"
    copy_database(suite.backends, name)
    async with superuser_of(suite.backends, name) as connection:
        await connection.execute("INSERT INTO auth.tenants (slug, display_name) VALUES ('system', 'Ours')")
        db = await Database.connect(Suite(suite.backends, name, tmp_path).settings("auth"), size=2)
        try:
            codes = await asyncio.gather(*(bootstrap.invite_operator(db) for _ in range(2)))
        finally:
            await db.close()
        assert all(code.startswith(f"tri_{'0' * 32}_") for code in codes)
        slug = await connection.fetchval("SELECT slug FROM auth.tenants WHERE id = $1", SYSTEM_TENANT)
    assert slug == "installation"


@pytest.mark.parametrize("slug", sorted(RESERVED))
async def test_slugs_of_the_installation_are_kept_for_it(people: People, admin: Somebody, slug: str) -> None:
    with pytest.raises(BootstrapRefused, match="--installation"):
        await bootstrap.invite(people.suite.runtimes["auth"].db, slug)
    request = pb.CreateTenantRequest(tenant=Tenant(slug=slug, display_name="Ours"))
    with pytest.raises(faults.InvalidArgument) as caught:
        await admin.stub(TenantServiceStub).CreateTenant(request)
    assert "tenant.slug" in caught.value.violations
