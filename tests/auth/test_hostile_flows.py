"""Attacks that go through several flows at once: what one of them ends must not go on in another."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from services.auth.invitations import InvitationInvalid
from services.auth.reauthentications import ReauthenticationRequired
from services.auth.users import UserManagedElsewhere
from services.kit import faults
from tests.auth.authenticators import App, Passkey
from tests.auth.holders import enroll
from tests.auth.people import People, Somebody
from tests.auth.test_session_api import age, refresh, refused
from tests.auth.tokens import over
from tests.patience import eventually
from tests.refusals import reason
from triptych.auth.v1 import (
    auth_service_pb2 as pb,
    factor_service_pb2 as factor_pb,
    invitation_service_pb2 as invitation_pb,
    member_service_pb2 as member_pb,
    session_service_pb2 as session_pb,
    user_service_pb2 as user_pb,
)
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.auth.v1.member_service_pb2_grpc import MemberServiceStub
from triptych.auth.v1.session_pb2 import Session, SessionEnd
from triptych.auth.v1.session_service_pb2_grpc import SessionServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub

if TYPE_CHECKING:
    from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceAsyncStub


@pytest.fixture
async def victim(people: People, admin: Somebody) -> Somebody:
    return await people.join(await admin.invite())


async def end_sessions(somebody: Somebody) -> None:
    """End the sessions as a new password does, at a moment when no verifier has heard of it yet."""
    async with somebody.people.database() as database:
        await database.execute("UPDATE users SET session_epoch = session_epoch + 1 WHERE id = $1", somebody.id)


async def test_a_spent_invitation_does_not_tell_which_addresses_are_known(people: People, admin: Somebody) -> None:
    code = await admin.invite()
    member = await people.join(code)

    for address in (member.email, people.address()):
        assert await reason(people.register(code, address)) == InvitationInvalid.reason


async def test_a_revoked_invitation_does_not_tell_which_addresses_are_known(people: People, admin: Somebody) -> None:
    invitations = admin.stub(InvitationServiceStub)
    code = await admin.invite()
    (made,) = (await invitations.ListInvitations(invitation_pb.ListInvitationsRequest(page_size=1))).invitations
    await invitations.RevokeInvitation(invitation_pb.RevokeInvitationRequest(invitation_id=made.id))

    for address in (admin.email, people.address()):
        assert await reason(people.register(code, address)) == InvitationInvalid.reason


async def test_a_stranger_who_registers_somebody_homeless_does_not_get_their_account(
    people: People, admin: Somebody, victim: Somebody
) -> None:
    removal = member_pb.RemoveMemberRequest(user_id=victim.id)
    await admin.stub(MemberServiceStub).RemoveMember(removal)
    stranger = await people.admin()
    await people.register(await stranger.invite(), victim.email)

    users = stranger.stub(UserServiceStub)
    for call in (
        users.DeleteUser(user_pb.DeleteUserRequest(user_id=victim.id, reason="mine")),
        users.DeactivateUser(user_pb.DeactivateUserRequest(user_id=victim.id, reason="mine")),
    ):
        assert await reason(call) == UserManagedElsewhere.reason
    assert (await people.login(victim.email)).tenant_id == stranger.tenant_id


async def test_a_change_of_address_does_not_begin_in_a_session_that_a_new_password_ended(victim: Somebody) -> None:
    await victim.reauthenticate()
    await end_sessions(victim)

    request = pb.ChangeEmailRequest(new_email=victim.people.address())
    assert await reason(victim.stub(AuthServiceStub).ChangeEmail(request)) == ReauthenticationRequired.reason


async def test_factors_are_not_changed_in_a_session_that_a_new_password_ended(victim: Somebody) -> None:
    holder = await enroll(victim)
    await holder.forget_steps()
    await holder.reauthenticate()
    await end_sessions(victim)

    factors: FactorServiceAsyncStub = holder.factors
    for call in (
        factors.DisableTotp(factor_pb.DisableTotpRequest()),
        factors.RegenerateRecoveryCodes(factor_pb.RegenerateRecoveryCodesRequest()),
        factors.BeginPasskeyRegistration(factor_pb.BeginPasskeyRegistrationRequest()),
    ):
        assert await reason(call) == ReauthenticationRequired.reason


async def test_an_enrollment_does_not_end_in_a_session_that_a_new_password_ended(victim: Somebody) -> None:
    await victim.reauthenticate()
    factors = victim.stub(FactorServiceStub)
    app = App((await factors.EnrollTotp(factor_pb.EnrollTotpRequest())).secret)
    await end_sessions(victim)

    confirmation = factors.ConfirmTotp(factor_pb.ConfirmTotpRequest(code=app.code()))
    assert await reason(confirmation) == faults.TokenInvalid.reason


async def test_a_passkey_is_not_registered_in_a_session_that_a_new_password_ended(victim: Somebody) -> None:
    await victim.reauthenticate()
    factors = victim.stub(FactorServiceStub)
    begun = await factors.BeginPasskeyRegistration(factor_pb.BeginPasskeyRegistrationRequest())
    await end_sessions(victim)

    request = factor_pb.FinishPasskeyRegistrationRequest(
        credential_json=Passkey().register(begun.options_json), display_name="a thief's"
    )
    assert await reason(factors.FinishPasskeyRegistration(request)) == faults.TokenInvalid.reason


async def switch(somebody: Somebody, tenant_id: str | None = None) -> Somebody:
    """Go to another tenant, a new one of somebody else's unless it is said, and give who is there."""
    if tenant_id is None:
        host = await somebody.people.admin()
        accept = invitation_pb.AcceptInvitationRequest(code=await host.invite())
        await somebody.stub(InvitationServiceStub).AcceptInvitation(accept)
        tenant_id = host.tenant_id
    answer = await somebody.stub(AuthServiceStub).SwitchTenant(pb.SwitchTenantRequest(tenant_id=tenant_id))
    login = pb.LoginResponse(tokens=answer.tokens, user=answer.user, tenant_id=tenant_id)
    return Somebody(somebody.people, somebody.email, login)


async def sessions(somebody: Somebody) -> list[Session]:
    """Give the sessions of somebody where they are, newest first."""
    return list((await somebody.stub(SessionServiceStub).ListSessions(session_pb.ListSessionsRequest())).sessions)


async def log_out(somebody: Somebody) -> None:
    await somebody.stub(AuthServiceStub).Logout(pb.LogoutRequest())


async def is_over(somebody: Somebody) -> None:
    """Wait until the access token is refused, and see that no other is given."""
    assert await over(lambda: sessions(somebody)) == faults.TokenInvalid.reason
    await refused(somebody.people, somebody.login.tokens.refresh_token)


async def goes_on(somebody: Somebody) -> None:
    await sessions(somebody)
    await refresh(somebody.people, somebody.login.tokens.refresh_token)


async def test_a_stolen_access_token_makes_no_session_in_its_own_tenant(victim: Somebody) -> None:
    for tenant_id in (victim.tenant_id, victim.tenant_id.upper()):
        with pytest.raises(faults.InvalidArgument) as caught:
            await switch(victim, tenant_id)
        assert caught.value.reason == faults.RequestInvalid.reason
        assert caught.value.violations == {"tenant_id": "is the tenant that you are in"}
    assert len(await sessions(victim)) == 1


async def test_a_session_ends_with_the_one_that_it_was_switched_from(victim: Somebody) -> None:
    there = await switch(victim)
    back = await switch(there, victim.tenant_id)
    farther = await switch(there)
    await goes_on(there)
    await log_out(victim)

    for follower in (there, back, farther):
        await is_over(follower)
    again = await victim.people.login(victim.email)
    assert {found.end for found in await sessions(again) if not found.current} == {
        SessionEnd.SESSION_END_LOGOUT,
        SessionEnd.SESSION_END_REVOKED,
    }


async def test_a_session_ends_with_one_that_was_revoked(admin: Somebody, victim: Somebody) -> None:
    there = await switch(victim)
    (first,) = await sessions(victim)
    request = session_pb.RevokeSessionRequest(session_id=first.id)
    await admin.stub(SessionServiceStub).RevokeSession(request)

    await is_over(there)


async def test_a_session_ends_with_one_whose_token_was_used_twice(victim: Somebody) -> None:
    there = await switch(victim)
    await refresh(victim.people, victim.login.tokens.refresh_token)
    await age(victim.people, victim)
    await refused(victim.people, victim.login.tokens.refresh_token)

    await is_over(there)


async def test_the_end_of_a_follower_ends_what_follows_it_and_leaves_the_first_alone(victim: Somebody) -> None:
    there = await switch(victim)
    elsewhere = await switch(victim)
    thief = await switch(there, victim.tenant_id)
    await log_out(there)

    await is_over(there)
    await is_over(thief)
    await goes_on(victim)
    await goes_on(elsewhere)


async def test_to_end_all_other_sessions_does_not_end_what_the_callers_own_follows(victim: Somebody) -> None:
    other = await victim.people.login(victim.email)
    there = await switch(victim)
    back = await switch(there, victim.tenant_id)
    request = session_pb.RevokeAllSessionsRequest(keep_current=True)
    answer = await back.stub(SessionServiceStub).RevokeAllSessions(request)

    assert answer.revoked == 1
    await is_over(other)
    await goes_on(back)


async def test_a_switch_that_overtakes_the_end_of_its_session_leads_nowhere(victim: Somebody) -> None:
    there = await switch(victim)
    (first,) = await sessions(victim)
    async with victim.people.database() as ending, victim.people.database() as onlooker:

        async def waits() -> bool:
            return bool(
                await onlooker.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            )

        async with ending.transaction():
            revoke = "UPDATE sessions SET revoke_time = now(), revoke_reason = 'logout' WHERE id = $1"
            await ending.execute(revoke, first.id)
            followers = await ending.fetch("SELECT * FROM sessions_following(ARRAY[$1::uuid])", first.id)
            overtaking = asyncio.create_task(switch(victim, there.tenant_id))
            await eventually(waits)
        assert await reason(overtaking) == "SESSION_INVALID"
    assert len(followers) == 1
