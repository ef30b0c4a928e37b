"""TenantService over the wire: external ids, the caller's tenants, how one begins and ends; and the operator's side."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.auth import bootstrap, operators
from services.kit import faults
from tests.auth.commands import run
from tests.auth.people import People, Somebody
from tests.auth.settlers import enter, patient, settle
from tests.auth.tokens import over
from triptych.auth.v1 import auth_service_pb2 as auth_pb, tenant_service_pb2 as pb, user_service_pb2 as user_pb
from triptych.auth.v1.tenant_pb2 import Tenant, TenantTier
from triptych.auth.v1.tenant_service_pb2_grpc import TenantServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role


def slug() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


async def own(who: Somebody) -> Tenant:
    return (await who.stub(TenantServiceStub).GetTenant(pb.GetTenantRequest())).tenant


@patient
async def create(who: Somebody, name: str, **fields: Any) -> Tenant:
    tenant = Tenant(slug=name, display_name="Another", **fields)
    return (await who.stub(TenantServiceStub).CreateTenant(pb.CreateTenantRequest(tenant=tenant))).tenant


async def delete(who: Somebody) -> None:
    await who.reauthenticate()
    name = (await own(who)).slug
    await who.stub(TenantServiceStub).DeleteTenant(pb.DeleteTenantRequest(slug=name))


async def events(people: People, tenant_id: str, action: str) -> list[str]:
    async with people.database() as database:
        rows = await database.fetch(
            "SELECT entity FROM outbox WHERE tenant_id = $1 AND action = $2 ORDER BY event_id", tenant_id, action
        )
    return [row["entity"] for row in rows]


async def test_a_guild_and_a_chat_are_of_one_tenant(people: People, admin: Somebody) -> None:
    guild, chat = str(uuid.uuid4().int)[:18], f"-{str(uuid.uuid4().int)[:13]}"
    change = Tenant(discord_guild_id=guild, telegram_chat_id=chat)
    tenants = admin.stub(TenantServiceStub)
    after = (await tenants.UpdateTenant(pb.UpdateTenantRequest(tenant=change))).tenant
    assert (after.discord_guild_id, after.telegram_chat_id) == (guild, chat)
    other = (await people.admin()).stub(TenantServiceStub)
    for taken in (Tenant(discord_guild_id=guild), Tenant(telegram_chat_id=chat)):
        with pytest.raises(faults.AlreadyExists) as caught:
            await other.UpdateTenant(pb.UpdateTenantRequest(tenant=taken))
        assert caught.value.reason == "EXTERNAL_ID_TAKEN"
    mask = FieldMask(paths=["discord_guild_id", "telegram_chat_id"])
    emptied = (await tenants.UpdateTenant(pb.UpdateTenantRequest(tenant=Tenant(), update_mask=mask))).tenant
    assert (emptied.discord_guild_id, emptied.telegram_chat_id) == ("", "")
    await other.UpdateTenant(pb.UpdateTenantRequest(tenant=change))


@pytest.mark.parametrize("fields", [{"discord_guild_id": "guild"}, {"telegram_chat_id": "1e5"}, {"slug": "-no"}])
async def test_ids_that_have_not_the_form_are_refused(admin: Somebody, fields: dict[str, str]) -> None:
    with pytest.raises(faults.InvalidArgument):
        await create(admin, **({"name": slug()} | {("name" if key == "slug" else key): fields[key] for key in fields}))


async def test_the_callers_tenants_are_listed_by_slug_and_page(people: People, admin: Somebody) -> None:
    mine = sorted([(await own(admin)).slug, *[(await create(admin, slug())).slug for _ in range(3)]])
    tenants = admin.stub(TenantServiceStub)
    first = await tenants.ListTenants(pb.ListTenantsRequest(page_size=3))
    second = await tenants.ListTenants(pb.ListTenantsRequest(page_size=3, page_token=first.next_page_token))
    assert [item.slug for item in (*first.tenants, *second.tenants)] == mine
    assert second.next_page_token == ""
    marks = {item.tenant_id: (item.current, item.home, item.role) for item in (*first.tenants, *second.tenants)}
    assert marks.pop(admin.tenant_id) == (True, True, Role.ROLE_ADMIN)
    assert set(marks.values()) == {(False, False, Role.ROLE_ADMIN)}
    stranger = await people.admin()
    assert [
        item.tenant_id for item in (await stranger.stub(TenantServiceStub).ListTenants(pb.ListTenantsRequest())).tenants
    ] == [stranger.tenant_id]


async def test_whoever_makes_a_tenant_is_its_first_admin_and_stays_where_they_are(
    people: People, admin: Somebody
) -> None:
    request = pb.CreateTenantRequest(
        tenant=Tenant(slug=slug(), display_name="New", tier=TenantTier.TENANT_TIER_ENTERPRISE, id=str(uuid.uuid4())),
        request_id=str(uuid.uuid4()),
    )
    tenants = admin.stub(TenantServiceStub)
    made = (await tenants.CreateTenant(request)).tenant
    assert (made.display_name, made.tier) == ("New", TenantTier.TENANT_TIER_FREE)
    assert made.id != request.tenant.id
    assert (await tenants.CreateTenant(request)).tenant == made
    assert (await own(admin)).id == admin.tenant_id
    async with people.database() as database:
        rows = await database.fetch("SELECT user_id::text, role FROM memberships WHERE tenant_id = $1", made.id)
    assert [tuple(row) for row in rows] == [(admin.id, "admin")]
    for tenant_id in (admin.tenant_id, made.id):  # both logs tell of it
        assert f"tenant:{made.id}" in await events(people, tenant_id, "auth.tenant.create")


async def test_only_an_admin_makes_tenants(people: People, admin: Somebody) -> None:
    user = await settle(people, admin.tenant_id)
    with pytest.raises(faults.PermissionDenied):
        await user.stub(TenantServiceStub).CreateTenant(
            pb.CreateTenantRequest(tenant=Tenant(slug=slug(), display_name="x"))
        )


async def test_a_slug_is_never_given_twice_not_even_after_deletion(people: People, admin: Somebody) -> None:
    other = await people.admin()
    taken = (await own(other)).slug
    with pytest.raises(faults.AlreadyExists) as caught:
        await create(admin, taken)
    assert caught.value.reason == "SLUG_TAKEN"
    await delete(other)
    with pytest.raises(faults.AlreadyExists):
        await create(admin, taken)
    with pytest.raises(bootstrap.BootstrapRefused, match="undelete"):
        await bootstrap.invite(people.suite.runtimes["auth"].db, taken)


async def test_fifty_creations_with_one_slug_make_one_tenant(admin: Somebody) -> None:
    name = slug()
    outcomes = await asyncio.gather(*(create(admin, name) for _ in range(50)), return_exceptions=True)
    assert len([item for item in outcomes if isinstance(item, Tenant)]) == 1
    reasons = {item.reason for item in outcomes if isinstance(item, faults.Fault)}
    assert reasons == {"SLUG_TAKEN"}


async def test_one_person_makes_twenty_tenants_even_at_once(people: People, admin: Somebody) -> None:
    outcomes = await asyncio.gather(*(create(admin, slug()) for _ in range(24)), return_exceptions=True)
    assert len([item for item in outcomes if isinstance(item, Tenant)]) == 20
    assert {item.reason for item in outcomes if isinstance(item, faults.Fault)} == {"TENANT_LIMIT"}


async def test_a_creation_that_fails_leaves_nothing(people: People, admin: Somebody) -> None:
    guild = str(uuid.uuid4().int)[:18]
    await create(admin, slug(), discord_guild_id=guild)
    name = slug()
    with pytest.raises(faults.AlreadyExists) as caught:
        await create(admin, name, discord_guild_id=guild)
    assert caught.value.reason == "EXTERNAL_ID_TAKEN"
    await create(admin, name)


async def test_deletion_needs_a_fresh_proof_the_slug_and_the_etag(admin: Somebody) -> None:
    tenants, tenant = admin.stub(TenantServiceStub), await own(admin)
    with pytest.raises(faults.PermissionDenied) as caught:
        await tenants.DeleteTenant(pb.DeleteTenantRequest(slug=tenant.slug))
    assert caught.value.reason == "REAUTHENTICATION_REQUIRED"
    await admin.reauthenticate()
    with pytest.raises(faults.InvalidArgument) as wrong:
        await tenants.DeleteTenant(pb.DeleteTenantRequest(slug=slug()))
    assert wrong.value.reason == "REQUEST_INVALID"
    with pytest.raises(faults.Aborted) as stale:
        await tenants.DeleteTenant(pb.DeleteTenantRequest(slug=tenant.slug, etag='"99"'))
    assert stale.value.reason == "ETAG_MISMATCH"
    assert (await own(admin)).id == tenant.id


async def test_nobody_but_an_admin_deletes_a_tenant(people: People, admin: Somebody) -> None:
    user = await people.join(await admin.invite(Role.ROLE_USER))
    await user.reauthenticate()
    with pytest.raises(faults.PermissionDenied) as caught:
        await user.stub(TenantServiceStub).DeleteTenant(pb.DeleteTenantRequest(slug=(await own(admin)).slug))
    assert caught.value.reason == "CALLER_NOT_PERMITTED"


async def test_a_deleted_tenant_lets_nobody_in(people: People, admin: Somebody) -> None:
    code = await admin.invite(max_uses=2)
    user = await people.join(code)
    await delete(admin)
    with pytest.raises(faults.Unauthenticated):
        await own(admin)
    await over(lambda: user.stub(UserServiceStub).GetUser(user_pb.GetUserRequest()))
    with pytest.raises(faults.Unauthenticated):
        await people.login(admin.email)
    with pytest.raises(faults.Unauthenticated):
        await people.auth.Refresh(auth_pb.RefreshRequest(refresh_token=admin.login.tokens.refresh_token))
    with pytest.raises(faults.FailedPrecondition):
        await people.register(code)
    async with people.database() as database:
        revoked = await database.fetchval(
            "SELECT count(*) FROM tenants t JOIN revocations r ON r.target_tenant_id = t.id"
            " WHERE t.id = $1 AND t.delete_time IS NOT NULL",
            admin.tenant_id,
        )
    assert revoked == 1
    assert await events(people, admin.tenant_id, "auth.tenant.delete") == [f"tenant:{admin.tenant_id}"]


async def test_who_has_lost_the_home_tenant_logs_in_to_another(people: People, admin: Somebody) -> None:
    member = await people.join(await admin.invite())
    other = await people.admin()
    await enter(people, member.id, other.tenant_id, Role.ROLE_VIEWER)
    assert (await people.login(member.email)).tenant_id == admin.tenant_id
    await delete(admin)
    landed = await people.login(member.email)
    assert (landed.tenant_id, landed.login.user.role) == (other.tenant_id, Role.ROLE_VIEWER)
    await operators.undelete(people.suite.runtimes["auth"].db, (await slug_of(people, admin.tenant_id)))
    assert (await people.login(member.email)).tenant_id == admin.tenant_id


async def slug_of(people: People, tenant_id: str) -> str:
    async with people.database() as database:
        found: str = await database.fetchval("SELECT slug FROM tenants WHERE id = $1", tenant_id)
    return found


async def test_the_operator_brings_a_deleted_tenant_back(people: People, admin: Somebody) -> None:
    db, name = people.suite.runtimes["auth"].db, (await own(admin)).slug
    await delete(admin)
    with pytest.raises(operators.OperationRefused, match="deleted"):
        await operators.set_tier(db, name, "pro")
    await operators.undelete(db, name)
    await operators.undelete(db, name)
    assert await events(people, admin.tenant_id, "auth.tenant.undelete") == [f"tenant:{admin.tenant_id}"]
    assert (await people.login(admin.email)).tenant_id == admin.tenant_id


async def test_the_operator_sets_the_tier(people: People, admin: Somebody) -> None:
    db, before = people.suite.runtimes["auth"].db, await own(admin)
    await operators.set_tier(db, before.slug, "pro")
    after = await own(admin)
    assert (after.tier, after.etag == before.etag) == (TenantTier.TENANT_TIER_PRO, False)
    assert await events(people, admin.tenant_id, "auth.tenant.set_tier") == [f"tenant:{admin.tenant_id}"]
    with pytest.raises(operators.OperationRefused, match="no tenant"):
        await operators.set_tier(db, slug(), "pro")


async def test_the_operators_commands_work_and_say_what_is_wrong(people: People, admin: Somebody, home: Path) -> None:
    name, there = (await own(admin)).slug, ("--home", str(home))
    done = await run("tenants", "set-tier", *there, name, "enterprise")
    assert (done.exit_code, done.errors) == (0, "")
    assert (await own(admin)).tier == TenantTier.TENANT_TIER_ENTERPRISE
    await delete(admin)
    refused = await run("tenants", "set-tier", *there, name, "free")
    assert (refused.exit_code, refused.errors) == (
        1,
        f"Error: the tenant {name} was deleted: bring it back first (undelete)\n",
    )
    assert (await run("tenants", "undelete", *there, name)).exit_code == 0
    assert (await people.login(admin.email)).tenant_id == admin.tenant_id
    unknown = await run("tenants", "undelete", *there, "no-such-tenant")
    said = "Error: there is no tenant no-such-tenant, and there never was one\n"
    assert (unknown.exit_code, unknown.errors) == (1, said)
    assert (await run("tenants", "set-tier", *there, name, "gold")).exit_code == 2
