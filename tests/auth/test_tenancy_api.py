"""TenantService, UserService and InvitationService over the wire."""

import uuid
from datetime import timedelta

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from services.kit import clock, faults
from tests.auth.people import People, Somebody
from tests.suite import Suite
from triptych.auth.v1 import (
    invitation_service_pb2 as invitation_pb,
    tenant_service_pb2 as tenant_pb,
    user_service_pb2 as user_pb,
)
from triptych.auth.v1.invitation_pb2 import Invitation
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.auth.v1.tenant_pb2 import Tenant, TenantTier
from triptych.auth.v1.tenant_service_pb2_grpc import TenantServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role


async def test_an_admin_changes_the_tenant(admin: Somebody) -> None:
    tenants = admin.stub(TenantServiceStub)
    before = (await tenants.GetTenant(tenant_pb.GetTenantRequest())).tenant
    assert before.tier == TenantTier.TENANT_TIER_FREE
    change = Tenant(display_name="Acme", etag=before.etag)
    change.settings.update({"colour": "green"})
    after = (await tenants.UpdateTenant(tenant_pb.UpdateTenantRequest(tenant=change))).tenant
    assert (after.display_name, after.settings["colour"]) == ("Acme", "green")
    assert (await tenants.GetTenant(tenant_pb.GetTenantRequest())).tenant == after
    with pytest.raises(faults.Aborted) as caught:
        await tenants.UpdateTenant(tenant_pb.UpdateTenantRequest(tenant=change))
    assert caught.value.reason == "ETAG_MISMATCH"


@pytest.mark.parametrize("path", ["slug", "tier", "id", "revision"])
async def test_a_mask_cannot_reach_what_is_not_the_admins(admin: Somebody, path: str) -> None:
    request = tenant_pb.UpdateTenantRequest(tenant=Tenant(slug="other"), update_mask=FieldMask(paths=[path]))
    with pytest.raises(faults.InvalidArgument) as caught:
        await admin.stub(TenantServiceStub).UpdateTenant(request)
    assert caught.value.reason == "UPDATE_MASK_INVALID"


async def test_another_tenants_id_is_refused_and_a_tenant_that_is_gone_ends_its_tokens(
    people: People, admin: Somebody, suite: Suite
) -> None:
    tenants = admin.stub(TenantServiceStub)
    other = Tenant(id=str(uuid.uuid4()), display_name="Mine")
    with pytest.raises(faults.InvalidArgument):
        await tenants.UpdateTenant(tenant_pb.UpdateTenantRequest(tenant=other))
    with pytest.raises(faults.Unauthenticated):
        await suite.person().stub(TenantServiceStub).GetTenant(tenant_pb.GetTenantRequest())


async def test_only_an_admin_changes_the_tenant_lists_people_or_invites(people: People, admin: Somebody) -> None:
    user = await people.join(await admin.invite(Role.ROLE_USER))
    await user.stub(TenantServiceStub).GetTenant(tenant_pb.GetTenantRequest())
    invitation = Invitation(role=Role.ROLE_ADMIN)
    for call in (
        user.stub(TenantServiceStub).UpdateTenant(tenant_pb.UpdateTenantRequest(tenant=Tenant(display_name="x"))),
        user.stub(UserServiceStub).ListUsers(user_pb.ListUsersRequest()),
        user.stub(UserServiceStub).GetUser(user_pb.GetUserRequest(user_id=admin.id)),
        user.stub(InvitationServiceStub).CreateInvitation(invitation_pb.CreateInvitationRequest(invitation=invitation)),
        user.stub(InvitationServiceStub).ListInvitations(invitation_pb.ListInvitationsRequest()),
        user.stub(InvitationServiceStub).RevokeInvitation(
            invitation_pb.RevokeInvitationRequest(invitation_id=str(uuid.uuid4()))
        ),
    ):
        with pytest.raises(faults.PermissionDenied):
            await call


async def test_people_are_listed_newest_first_by_page(people: People, admin: Somebody) -> None:
    code = await admin.invite(Role.ROLE_VIEWER, max_uses=3)
    joined = [await people.join(code) for _ in range(3)]
    users = admin.stub(UserServiceStub)
    found: list[str] = []
    token = ""
    while True:
        page = await users.ListUsers(user_pb.ListUsersRequest(page_size=3, page_token=token))
        found += [user.id for user in page.users]
        token = page.next_page_token
        if not token:
            break
    assert found == [who.id for who in (*reversed(joined), admin)]
    seen = (await users.GetUser(user_pb.GetUserRequest(user_id=joined[0].id))).user
    assert (seen.email, seen.role, seen.active) == (joined[0].email, Role.ROLE_VIEWER, True)
    page = await users.ListUsers(user_pb.ListUsersRequest(page_size=1))
    stranger = (await people.admin()).stub(UserServiceStub)
    with pytest.raises(faults.InvalidArgument):
        await stranger.ListUsers(user_pb.ListUsersRequest(page_token=page.next_page_token))


async def test_another_tenants_person_and_invitation_look_like_none(people: People, admin: Somebody) -> None:
    code = await admin.invite()
    assert code
    invitation = await admin.stub(InvitationServiceStub).ListInvitations(invitation_pb.ListInvitationsRequest())
    stranger = await people.admin()
    said = set()
    for user_id in (admin.id, str(uuid.uuid4())):
        with pytest.raises(faults.NotFound) as caught:
            await stranger.stub(UserServiceStub).GetUser(user_pb.GetUserRequest(user_id=user_id))
        said.add((caught.value.reason, caught.value.text))
    assert said == {("USER_NOT_FOUND", "there is no such person")}
    said.clear()
    for invitation_id in (invitation.invitations[0].id, str(uuid.uuid4())):
        request = invitation_pb.RevokeInvitationRequest(invitation_id=invitation_id)
        with pytest.raises(faults.NotFound) as caught:
            await stranger.stub(InvitationServiceStub).RevokeInvitation(request)
        said.add((caught.value.reason, caught.value.text))
    assert said == {("INVITATION_NOT_FOUND", "there is no such invitation")}


async def test_an_invitation_is_made_listed_and_revoked(people: People, admin: Somebody) -> None:
    invitations = admin.stub(InvitationServiceStub)
    request = invitation_pb.CreateInvitationRequest(
        invitation=Invitation(role=Role.ROLE_VIEWER, uses=7, created_by="me"), request_id=str(uuid.uuid4())
    )
    created = await invitations.CreateInvitation(request)
    made = created.invitation
    assert (made.max_uses, made.uses, made.created_by) == (1, 0, admin.id)
    assert made.expire_time.seconds - made.create_time.seconds == pytest.approx(7 * 86_400, abs=5)
    again = await invitations.CreateInvitation(request)
    assert (again.invitation, again.code) == (made, "")
    listed = await invitations.ListInvitations(invitation_pb.ListInvitationsRequest(page_size=1))
    assert list(listed.invitations) == [made]
    assert listed.next_page_token  # the one that the admin came by
    revoke = invitation_pb.RevokeInvitationRequest(invitation_id=made.id)
    ended = (await invitations.RevokeInvitation(revoke)).invitation
    assert ended.HasField("revoke_time")
    assert (await invitations.RevokeInvitation(revoke)).invitation == ended
    with pytest.raises(faults.FailedPrecondition):
        await people.register(created.code)


@pytest.mark.parametrize("ahead", [timedelta(seconds=-1), timedelta(days=31)])
async def test_an_invitation_ends_within_thirty_days(admin: Somebody, ahead: timedelta) -> None:
    expire_time = Timestamp()
    expire_time.FromDatetime(clock.now() + ahead)
    with pytest.raises(faults.InvalidArgument) as caught:
        await admin.invite(expire_time=expire_time)
    assert caught.value.reason == "REQUEST_INVALID"


async def test_the_database_itself_keeps_tenants_apart(people: People, admin: Somebody) -> None:
    db = people.suite.runtimes["auth"].db
    tables = ("tenants", "memberships", "sessions", "invitations", "email_verifications")
    for tenant in ("", str(uuid.uuid4())):
        async with db.begin(tenant=tenant) as tx:
            for table in tables:
                assert await tx.connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    async with db.begin(tenant=admin.tenant_id) as tx:
        assert await tx.connection.fetchval("SELECT count(*) FROM memberships") == 1
