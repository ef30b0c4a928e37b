"""AcceptInvitation over the wire."""

import asyncio
import uuid

import pytest

from services.kit import faults
from tests.auth.people import People, Somebody
from tests.refusals import outcome
from tests.suite import Person
from triptych.auth.v1 import (
    auth_service_pb2 as pb,
    invitation_service_pb2 as invitation_pb,
    member_service_pb2 as member_pb,
    user_service_pb2 as user_pb,
)
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.auth.v1.member_service_pb2_grpc import MemberServiceStub
from triptych.auth.v1.tenant_pb2 import TenantMembership
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role


async def accept(who: Somebody | Person, code: str, request_id: str = "") -> TenantMembership:
    request = invitation_pb.AcceptInvitationRequest(code=code, request_id=request_id)
    return (await who.stub(InvitationServiceStub).AcceptInvitation(request)).membership


async def crowd(people: People, size: int) -> list[Person]:
    """Give people who can call and share a tenant; they came by no invitation, which would take a hash for each."""
    home = await people.admin()
    crowd = [Person(people.suite, str(uuid.uuid4()), home.tenant_id, Role.ROLE_USER) for _ in range(size)]
    async with people.database() as database:
        await database.executemany(
            "INSERT INTO users (id, email, email_key, display_name, verified, default_tenant_id)"
            " VALUES ($1::uuid, $1::uuid::text, $1::uuid::text, 'One of many', true, $2)",
            [(who.id, who.tenant_id) for who in crowd],
        )
        await database.executemany(
            "INSERT INTO memberships (user_id, tenant_id, role) VALUES ($1, $2, 'user')",
            [(who.id, who.tenant_id) for who in crowd],
        )
    return crowd


async def uses(people: People, host: Somebody) -> int:
    """Give how often the newest invitation of a tenant was used."""
    request = invitation_pb.ListInvitationsRequest(page_size=1)
    return (await host.stub(InvitationServiceStub).ListInvitations(request)).invitations[0].uses


async def test_who_is_logged_in_joins_another_tenant_and_goes_there(people: People, admin: Somebody) -> None:
    host = await people.admin()
    found = await accept(admin, await host.invite(Role.ROLE_VIEWER))
    assert (found.tenant_id, found.role, found.current, found.home) == (host.tenant_id, Role.ROLE_VIEWER, False, False)
    assert found.slug
    switch = pb.SwitchTenantRequest(tenant_id=host.tenant_id)
    there = await admin.stub(AuthServiceStub).SwitchTenant(switch)
    assert there.user.role == Role.ROLE_VIEWER
    assert (await people.login(admin.email)).tenant_id == admin.tenant_id
    async with people.database() as database:
        event = await database.fetchrow(
            "SELECT payload::text FROM outbox"
            " WHERE tenant_id = $1 AND action = 'auth.invitation.accept' AND actor_id = $2",
            host.tenant_id,
            admin.id,
        )
    assert event is not None
    assert '"role": "viewer"' in event["payload"]


async def test_a_member_keeps_their_role_and_the_invitation_stays_good(people: People, admin: Somebody) -> None:
    code = await admin.invite(Role.ROLE_GUEST)
    found = await accept(admin, code)
    assert (found.role, found.current, found.home) == (Role.ROLE_ADMIN, True, True)
    assert await uses(people, admin) == 0
    await people.join(code)


async def test_accepting_twice_is_accepting_once(people: People, admin: Somebody) -> None:
    host = await people.admin()
    code, request_id = await host.invite(), str(uuid.uuid4())
    found = await asyncio.gather(*(accept(admin, code) for _ in range(5)))
    assert len({membership.tenant_id for membership in found}) == 1
    assert await accept(admin, code, request_id) == await accept(admin, code, request_id) == found[0]
    assert await uses(people, host) == 1


async def test_who_was_removed_does_not_come_back_by_the_same_invitation(people: People, admin: Somebody) -> None:
    host = await people.admin()
    code = await host.invite(max_uses=5)
    await accept(admin, code)
    await host.stub(MemberServiceStub).RemoveMember(member_pb.RemoveMemberRequest(user_id=admin.id))
    admin = await people.login(admin.email)
    assert await outcome(accept(admin, code)) == "INVITATION_INVALID"
    assert await uses(people, host) == 1
    assert (await accept(admin, await host.invite(Role.ROLE_GUEST))).role == Role.ROLE_GUEST


async def test_a_bad_invitation_is_one_whatever_is_wrong_with_it(people: People, admin: Somebody) -> None:
    host = await people.admin()
    code = await host.invite()
    said = set()
    for bad in ("x" * 16, code[:-1] + ("a" if code[-1] != "a" else "b"), code.replace("tri_", "trv_")):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await accept(admin, bad)
        said.add((caught.value.reason, caught.value.text))
    revoked = await host.invite()
    newest = await host.stub(InvitationServiceStub).ListInvitations(invitation_pb.ListInvitationsRequest(page_size=1))
    revoke = invitation_pb.RevokeInvitationRequest(invitation_id=newest.invitations[0].id)
    await host.stub(InvitationServiceStub).RevokeInvitation(revoke)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await accept(admin, revoked)
    said.add((caught.value.reason, caught.value.text))
    assert len(said) == 1


async def test_nobody_joins_a_tenant_that_was_deleted(people: People, admin: Somebody) -> None:
    host = await people.admin()
    code = await host.invite(max_uses=2)
    async with people.database() as database:
        await database.execute("UPDATE tenants SET delete_time = now() WHERE id = $1", host.tenant_id)
    assert await outcome(accept(admin, code)) == "INVITATION_INVALID"
    assert await outcome(people.register(code)) == "INVITATION_INVALID"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET disable_time = now() WHERE id = $1",
        "UPDATE users SET delete_time = now() WHERE id = $1",
        "UPDATE memberships SET role = 'user' WHERE user_id = $1",
        "UPDATE memberships SET remove_time = now() WHERE user_id = $1",
    ],
)
async def test_an_admin_who_is_none_any_more_has_left_no_way_in(
    people: People, admin: Somebody, statement: str
) -> None:
    leaver = await people.join(await admin.invite(Role.ROLE_ADMIN))
    code = await leaver.invite(Role.ROLE_ADMIN, max_uses=2)
    async with people.database() as database:
        await database.execute(statement, leaver.id)
    stranger = await people.admin()
    assert await outcome(people.register(code)) == "INVITATION_INVALID"
    assert await outcome(accept(stranger, code)) == "INVITATION_INVALID"


async def test_a_refused_invitation_is_noted_where_the_caller_is(people: People, admin: Somebody) -> None:
    assert await outcome(accept(admin, "x" * 16)) == "INVITATION_INVALID"
    async with people.database() as database:
        noted = await database.fetchval(
            "SELECT count(*) FROM audit_logs WHERE tenant_id = $1 AND user_id = $2"
            " AND action = 'auth.invitation.accept' AND status = 'failure'",
            admin.tenant_id,
            admin.id,
        )
    assert noted == 1


async def test_casdoor_invitation_quota_race_fifty_people_use_a_one_use_invitation_once(
    people: People, admin: Somebody
) -> None:
    code = await admin.invite()
    found = await asyncio.gather(*(outcome(accept(who, code)) for who in await crowd(people, 50)))
    assert sorted(found) == [""] + ["INVITATION_INVALID"] * 49
    assert await uses(people, admin) == 1
    members = await admin.stub(UserServiceStub).ListUsers(user_pb.ListUsersRequest())
    assert len(members.users) == 2


async def test_cve_2022_23555_an_invitation_that_was_used_is_used_up_for_everybody(
    people: People, admin: Somebody
) -> None:
    code = await admin.invite()
    await people.join(code)
    stranger = await people.admin()
    assert await outcome(people.register(code)) == "INVITATION_INVALID"
    assert await outcome(accept(stranger, code)) == "INVITATION_INVALID"


async def test_cve_2025_64708_an_invitation_ends_by_the_clock_and_not_by_a_cleanup(
    people: People, admin: Somebody
) -> None:
    stranger = await people.admin()
    code = await admin.invite()
    async with people.database() as database:
        await database.execute(
            "UPDATE invitations SET expire_time = now() - interval '1 millisecond' WHERE tenant_id = $1 AND uses = 0",
            admin.tenant_id,
        )
    assert await outcome(accept(stranger, code)) == "INVITATION_INVALID"
    assert await outcome(people.register(code)) == "INVITATION_INVALID"


async def test_cve_2026_1529_a_code_that_nobody_issued_is_worth_nothing(people: People, admin: Somebody) -> None:
    tenant = admin.tenant_id.replace("-", "")
    stranger = await people.admin()
    for forged in (f"tri_{tenant}_{'A' * 43}", f"tri_{tenant}_" + "role=admin".ljust(43, "A")):
        assert await outcome(accept(stranger, forged)) == "INVITATION_INVALID"
