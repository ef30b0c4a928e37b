"""Members who are taken out, or leave, over the wire: what ends with it, and how they come back."""

import uuid

import pytest

from services.kit import faults
from tests.auth.members import DISCORD, change, digits, get, link, remove, revoked_below, token_version
from tests.auth.people import People, Somebody
from tests.auth.settlers import enter, settle
from triptych.auth.v1 import auth_service_pb2 as auth_pb
from triptych.common.v1.role_pb2 import Role


async def test_whoever_is_taken_out_is_out_within_the_call(people: People, admin: Somebody) -> None:
    user = await people.join(await admin.invite(Role.ROLE_USER))
    await link(admin, user.id, DISCORD, digits())
    await remove(admin, user.id, "moved on")
    assert await revoked_below(people, user.id) == await token_version(people, user.id) == 2
    with pytest.raises(faults.Unauthenticated):
        await people.auth.Refresh(auth_pb.RefreshRequest(refresh_token=user.login.tokens.refresh_token))
    with pytest.raises(faults.Unauthenticated):
        await people.login(user.email)
    with pytest.raises(faults.NotFound):
        await get(admin, user.id)
    async with people.database() as database:
        rows = await database.fetch(
            "SELECT m.remove_reason, s.revoke_reason,"
            " (SELECT count(*) FROM user_identities i WHERE i.user_id = m.user_id)"
            " FROM memberships m JOIN sessions s USING (tenant_id, user_id) WHERE m.user_id = $1",
            user.id,
        )
    assert [tuple(row) for row in rows] == [("moved on", "removed", 0)]
    await remove(admin, user.id)  # gone is gone


async def test_members_take_themselves_out_and_only_admins_others(people: People, admin: Somebody) -> None:
    guest = await settle(people, admin.tenant_id, Role.ROLE_GUEST)
    other = await settle(people, admin.tenant_id)
    said = set()
    for user_id in (other.id, str(uuid.uuid4())):
        with pytest.raises(faults.PermissionDenied) as caught:
            await remove(guest, user_id)
        said.add((caught.value.reason, caught.value.text))
    assert len(said) == 1
    await remove(guest, guest.id)
    with pytest.raises(faults.NotFound):
        await get(admin, guest.id)
    with pytest.raises(faults.NotFound) as unknown:
        await remove(admin, str(uuid.uuid4()))
    assert unknown.value.reason == "MEMBER_NOT_FOUND"


async def test_whose_home_is_taken_moves_to_another_tenant(people: People, admin: Somebody) -> None:
    user = await people.join(await admin.invite(Role.ROLE_USER))
    other = await people.admin()
    await enter(people, user.id, other.tenant_id, Role.ROLE_VIEWER)
    await remove(admin, user.id)
    assert (await people.login(user.email)).tenant_id == other.tenant_id
    async with people.database() as database:
        home = await database.fetchval("SELECT default_tenant_id FROM users WHERE id = $1", user.id)
    assert str(home) == other.tenant_id


async def test_who_belongs_nowhere_comes_back_by_an_invitation(people: People, admin: Somebody) -> None:
    code = await admin.invite(Role.ROLE_USER, max_uses=5)
    user = await people.join(code)
    await change(admin, user.id, "tier", tier=6)
    await remove(admin, user.id)
    with pytest.raises(faults.FailedPrecondition):  # not with the invitation that they have used
        await people.register(code, user.email)
    await people.register(
        await admin.invite(Role.ROLE_VIEWER), user.email, password="not the one that counts", display_name="x"
    )
    await people.mail(user.email, "member again")
    back = await people.login(user.email)
    assert (back.id, back.tenant_id, back.login.user.role) == (user.id, admin.tenant_id, Role.ROLE_VIEWER)
    assert (await get(back)).tier == 6


async def test_who_belongs_somewhere_is_taken_in_by_nobody_else(people: People, admin: Somebody) -> None:
    other = await people.admin()
    code = await other.invite(Role.ROLE_USER)
    await people.register(code, admin.email)
    async with people.database() as database:
        found = await database.fetchval("SELECT count(*) FROM memberships WHERE user_id = $1", admin.id)
    assert found == 1
    await people.register(code)  # the invitation is still good


async def test_sessions_elsewhere_go_on(people: People, admin: Somebody) -> None:
    user = await people.join(await admin.invite(Role.ROLE_USER))
    other = await people.admin()
    await enter(people, user.id, other.tenant_id, Role.ROLE_VIEWER)
    await remove(other, user.id)
    answer = await people.auth.Refresh(auth_pb.RefreshRequest(refresh_token=user.login.tokens.refresh_token))
    assert answer.tokens.access_token
