"""Attacks that go through several flows at once: what one of them ends must not go on in another."""

from typing import TYPE_CHECKING, Any

import pytest

from services.auth.invitations import InvitationInvalid
from services.auth.reauthentications import ReauthenticationRequired
from services.auth.users import UserManagedElsewhere
from services.kit import faults
from tests.auth.authenticators import App, Passkey
from tests.auth.holders import enroll
from tests.auth.people import People, Somebody
from triptych.auth.v1 import (
    auth_service_pb2 as pb,
    factor_service_pb2 as factor_pb,
    invitation_service_pb2 as invitation_pb,
    member_service_pb2 as member_pb,
    user_service_pb2 as user_pb,
)
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.auth.v1.member_service_pb2_grpc import MemberServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub

if TYPE_CHECKING:
    from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceAsyncStub


@pytest.fixture
async def victim(people: People, admin: Somebody) -> Somebody:
    return await people.join(await admin.invite())


async def reason(call: Any) -> str:
    """Give the reason of a failure."""
    with pytest.raises(faults.Fault) as caught:
        await call
    return caught.value.reason


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
