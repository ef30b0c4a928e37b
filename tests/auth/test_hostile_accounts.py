"""What somebody hostile sends to methods about accounts, addresses and passwords; and flaws that others have had."""

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.auth import addresses
from services.auth.passwords import Passwords
from services.kit import faults
from tests.auth.people import PASSWORD, People, Somebody, code_in
from tests.patience import within
from tests.refusals import outcome
from triptych.auth.v1 import (
    auth_service_pb2 as pb,
    invitation_service_pb2 as invitation_pb,
    user_service_pb2 as user_pb,
)
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.invitation_pb2 import Invitation
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.auth.v1.user_pb2 import User
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role

if TYPE_CHECKING:
    from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

NEW = "two herons, eight lamps, rain"
RESET = "A new password"
METHOD = "/triptych.auth.v1.AuthService/"


async def ask(auth: "AuthServiceAsyncStub", address: str) -> None:
    request = pb.RequestPasswordResetRequest(email=address)
    assert await auth.RequestPasswordReset(request) == pb.RequestPasswordResetResponse()


async def change(who: Somebody, *paths: str, **fields: Any) -> User:
    request = user_pb.UpdateUserRequest(user=User(**fields), update_mask=FieldMask(paths=paths))
    return (await who.stub(UserServiceStub).UpdateUser(request)).user


async def status(call: Any) -> grpc.StatusCode:
    """Give the status of a failure."""
    with pytest.raises(faults.Fault) as caught:
        await call
    return caught.value.code


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET disable_time = now() WHERE id = $1",
        "UPDATE users SET delete_time = now() WHERE id = $1",
        "UPDATE users SET session_epoch = session_epoch + 1 WHERE id = $1",
        "UPDATE tenants SET delete_time = now() WHERE id = (SELECT default_tenant_id FROM users WHERE id = $1)",
    ],
)
async def test_hostile_17_refresh_for_a_person_or_tenant_that_is_gone(
    people: People, somebody: Somebody, statement: str
) -> None:
    async with people.database() as database:
        await database.execute(statement, somebody.id)
    refresh = pb.RefreshRequest(refresh_token=somebody.login.tokens.refresh_token)
    assert await outcome(people.auth.Refresh(refresh)) == "SESSION_INVALID"


async def test_hostile_29_an_address_does_not_change_without_stepping_up(people: People, somebody: Somebody) -> None:
    stolen = people.address()
    request = pb.ChangeEmailRequest(new_email=stolen)
    async with people.server((("authorization", f"Bearer {somebody.login.tokens.access_token}"),)) as auth:
        with pytest.raises(faults.PermissionDenied) as caught:
            await auth.ChangeEmail(request)
    assert caught.value.reason == "REAUTHENTICATION_REQUIRED"
    assert people.mailed(stolen) == people.mailed(somebody.email, "was asked for") == []
    async with people.database() as database:
        noted = await database.fetchval(
            "SELECT count(*) FROM audit_logs WHERE user_id = $1 AND action = 'auth.user.change_email'"
            " AND status = 'failure'",
            somebody.id,
        )
        await database.execute(
            "UPDATE sessions SET reauthenticate_time = now() - interval '6 minutes' WHERE user_id = $1", somebody.id
        )
    assert noted == 1
    assert await outcome(somebody.stub(AuthServiceStub).ChangeEmail(request)) == "REAUTHENTICATION_REQUIRED"


async def test_hostile_29_an_account_is_not_deleted_by_its_owner_without_stepping_up(somebody: Somebody) -> None:
    found = await outcome(somebody.stub(UserServiceStub).DeleteUser(user_pb.DeleteUserRequest()))
    assert found == "REAUTHENTICATION_REQUIRED"


async def test_hostile_29_the_password_of_stepping_up_counts_as_a_login(people: People, somebody: Somebody) -> None:
    for _ in range(10):
        assert await outcome(somebody.reauthenticate("wrong")) == "LOGIN_FAILED"
    assert await outcome(people.login(somebody.email)) == "LOGIN_FAILED"
    assert await outcome(somebody.reauthenticate()) == "LOGIN_FAILED"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("verified", {"verified": True}),
        ("role", {"role": Role.ROLE_ADMIN}),
        ("tenant_id", {}),
        ("home_tenant_id", {"home_tenant_id": "01890000-0000-7000-8000-000000000000"}),
        ("email", {"email": "other@example.com"}),
        ("active", {"active": True}),
        ("second_factor", {"second_factor": False}),
    ],
)
async def test_hostile_30_a_mask_reaches_nothing_that_has_another_way(
    people: People, admin: Somebody, somebody: Somebody, path: str, fields: dict[str, Any]
) -> None:
    for who, user_id in ((somebody, ""), (admin, somebody.id)):
        with pytest.raises(faults.PermissionDenied) as caught:
            await change(who, path, id=user_id, **fields)
        assert (caught.value.reason, caught.value.facts["path"]) == ("FIELD_PROTECTED", path)
    before = (await somebody.stub(UserServiceStub).GetUser(user_pb.GetUserRequest())).user
    after = await change(somebody, "*", display_name=before.display_name, **fields)
    assert (after.email, after.role, after.verified, after.home_tenant_id) == (
        before.email, before.role, before.verified, before.home_tenant_id,
    )  # fmt: skip


@pytest.mark.parametrize(
    "path", ["id", "password_hash", "session_epoch", "display_name.x", "user.verified", "create_time"]
)
async def test_hostile_30_a_mask_that_names_what_cannot_be_changed(somebody: Somebody, path: str) -> None:
    assert await outcome(change(somebody, path, display_name="x")) == "UPDATE_MASK_INVALID"


async def test_cve_2026_27946_nobody_proves_their_address_by_saying_so(people: People, admin: Somebody) -> None:
    address = await people.register(await admin.invite())
    (pending,) = (await admin.stub(UserServiceStub).ListUsers(user_pb.ListUsersRequest(verified=False))).users
    with pytest.raises(faults.PermissionDenied):
        await change(admin, "verified", id=pending.id, verified=True)
    await change(admin, id=pending.id, display_name="Renamed", verified=True)
    with pytest.raises(faults.Unauthenticated):
        await people.login(address)


@pytest.mark.parametrize("role", [Role.ROLE_GUEST, Role.ROLE_VIEWER, Role.ROLE_USER])
async def test_hostile_33_nobody_below_admin_invites_an_admin(
    people: People, admin: Somebody, role: "Role.ValueType"
) -> None:
    who = await people.join(await admin.invite(role))
    request = invitation_pb.CreateInvitationRequest(invitation=Invitation(role=Role.ROLE_ADMIN))
    call = who.stub(InvitationServiceStub).CreateInvitation(request)
    assert await status(call) is grpc.StatusCode.PERMISSION_DENIED


async def test_hostile_34_asking_for_a_reset_does_not_look_whether_anybody_has_the_address(
    people: People, somebody: Somebody
) -> None:
    """The answers come while nobody can read the table of people: so what is in it cannot show in them."""
    async with people.server() as auth, people.database() as database:
        async with database.transaction():
            await database.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            for address in (somebody.email, people.address(), "not an address", "a\0b@example.com"):
                await within(ask(auth, address))
            resend = pb.ResendVerificationRequest(email=somebody.email)
            await within(auth.ResendVerification(resend))
        await people.mail(somebody.email, RESET)


async def test_ghsa_2wmj_46rj_qm2w_no_link_is_made_of_what_a_request_says(people: People, somebody: Somebody) -> None:
    spoofed = [("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example"), ("host", "evil.example")]
    runtime = await people.suite.launch("auth", public_url="https://triptych.acme.example")
    options = [("grpc.default_authority", "evil.example")]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{runtime.plaintext_port}", options=options) as channel:
            request = pb.RequestPasswordResetRequest(email=somebody.email)
            await AuthServiceStub(channel).RequestPasswordReset(request, metadata=spoofed)
    finally:
        await runtime.stop()
    (mail,) = people.mailed(somebody.email, RESET)
    assert f"https://triptych.acme.example/reset-password#code={code_in(mail)}" in mail.get_content()
    assert "evil" not in mail.as_string()


@pytest.mark.parametrize(
    "spelling",
    [
        "m\u0131ke@{}",  # dotless i
        "mike@{}.",  # a dot at the end
        "\uff4d\uff49\uff4b\uff45@{}",  # full width
        "m\u0456ke@{}",  # Cyrillic i
        "mike+tag@{}",
        "mi.ke@{}",
    ],
)
async def test_hostile_36_what_looks_like_an_address_is_never_another_persons(
    people: People, admin: Somebody, spelling: str
) -> None:
    domain = f"{people.address().partition('@')[0]}.example.com"
    address = await people.register(await admin.invite(), f"mike@{domain}")
    await people.verify(address)
    other = spelling.format(domain)
    async with people.server() as auth:
        await ask(auth, other)
    assert people.mailed(address, RESET) == []
    with pytest.raises(faults.Unauthenticated):
        await people.login(other)
    found = await outcome(people.register(await admin.invite(), other))
    assert found in {"", "EMAIL_REFUSED"}
    assert people.mailed(address, "You have an account") == []


async def test_cve_2019_19844_a_reset_goes_to_the_address_as_it_is_stored(people: People, somebody: Somebody) -> None:
    await ask(people.auth, somebody.email.upper())
    mail = await people.mail(somebody.email, RESET)
    assert mail["To"] == somebody.email


async def test_hostile_36_a_domain_is_the_same_in_unicode_and_in_punycode(people: People, admin: Somebody) -> None:
    local = people.address().partition("@")[0]
    address = await people.register(await admin.invite(), f"{local}@bücher.example")
    assert addresses.parse(address).key == addresses.parse(f"{local}@xn--bcher-kva.example").key
    await people.register(await admin.invite(), f"{local}@xn--bcher-kva.example")
    await people.mail(address, "You have an account")


async def test_hostile_37_a_nul_is_the_callers_mistake_wherever_it_stands(people: People, somebody: Somebody) -> None:
    await somebody.reauthenticate()
    auth, users = somebody.stub(AuthServiceStub), somebody.stub(UserServiceStub)
    nul = "a\0b@example.com"
    for call in (
        auth.ChangeEmail(pb.ChangeEmailRequest(new_email=nul)),
        auth.ResendVerification(pb.ResendVerificationRequest(email=nul)),
        users.UpdateUser(user_pb.UpdateUserRequest(user=User(display_name="a\0b"))),
        users.DeleteUser(user_pb.DeleteUserRequest(user_id="\0" * 36)),
    ):
        assert await status(call) is grpc.StatusCode.INVALID_ARGUMENT
    code = "trv_" + "\0" * 60
    assert await outcome(people.auth.VerifyEmail(pb.VerifyEmailRequest(code=code))) == "VERIFICATION_INVALID"


async def test_hostile_37_a_nul_in_a_reason_is_the_callers_mistake(admin: Somebody, somebody: Somebody) -> None:
    users = admin.stub(UserServiceStub)
    bad: dict[str, Any] = {"user_id": somebody.id, "reason": "a\0b"}
    for call in (
        users.DeactivateUser(user_pb.DeactivateUserRequest(**bad)),
        users.ReactivateUser(user_pb.ReactivateUserRequest(**bad)),
        users.UnlockUser(user_pb.UnlockUserRequest(**bad)),
        users.DeleteUser(user_pb.DeleteUserRequest(**bad)),
    ):
        assert await status(call) is grpc.StatusCode.INVALID_ARGUMENT


async def test_hostile_37_a_nul_in_a_password_is_a_character_like_another(people: People, somebody: Somebody) -> None:
    new = "two herons\0eight lamps"
    await somebody.stub(AuthServiceStub).ChangePassword(
        pb.ChangePasswordRequest(old_password=PASSWORD, new_password=new)
    )
    await people.login(somebody.email, new)
    with pytest.raises(faults.Unauthenticated):
        await people.login(somebody.email, new.partition("\0")[0])


async def test_hostile_38_no_password_of_a_megabyte_is_hashed(
    people: People, somebody: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Passwords, *_given: object) -> bool:
        raise AssertionError("it was hashed")

    monkeypatch.setattr(Passwords, "_run", refuse)
    for size, expected in (
        (1_000_000, grpc.StatusCode.INVALID_ARGUMENT),
        (5_000_000, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        huge = "x" * size
        auth = somebody.stub(AuthServiceStub)
        for call in (
            auth.ChangePassword(pb.ChangePasswordRequest(old_password=huge, new_password=NEW)),
            auth.ChangePassword(pb.ChangePasswordRequest(old_password=PASSWORD, new_password=huge)),
            people.auth.ResetPassword(pb.ResetPasswordRequest(code="x" * 16, new_password=huge)),
        ):
            assert await status(call) is expected


@pytest.mark.parametrize("given", [b"\xff\xfe", b"\xed\xa0\x80" * 6, b"\xc0\x80" * 8])
@pytest.mark.parametrize("method", ["ResetPassword", "RequestPasswordReset", "VerifyEmail", "ResendVerification"])
async def test_hostile_38_what_is_no_utf_8_is_the_callers_mistake(people: People, given: bytes, method: str) -> None:
    runtime = people.suite.runtimes["auth"]
    field = bytes([0x0A, len(given)]) + given
    async with grpc.aio.insecure_channel(f"127.0.0.1:{runtime.plaintext_port}") as channel:
        call: Any = channel.unary_unary(METHOD + method)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(field)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "pb2" not in str(caught.value.details())


async def test_cve_2026_18963_no_reset_without_the_mail(people: People, admin: Somebody) -> None:
    """Nothing that the service hands out elsewhere, or that stands in its database, sets a password."""
    address = await people.register(invitation := await admin.invite(max_uses=2))
    verification = await people.code(address)
    await ask(people.auth, address)
    code = await people.code(address, RESET)
    async with people.database() as database:
        digest: bytes = await database.fetchval(
            "SELECT token_hash FROM password_resets ORDER BY create_time DESC LIMIT 1"
        )
    tenant = admin.tenant_id.replace("-", "")
    for bad in (
        invitation,
        verification,
        verification.replace("trv_", "trp_"),
        invitation.replace("tri_", "trp_"),
        f"trp_{tenant}_{digest.hex()[:43]}",
        digest.hex(),
        code.swapcase(),
        f"{code} ",
        code[:-1],
    ):
        request = pb.ResetPasswordRequest(code=bad, new_password=NEW)
        assert await outcome(people.auth.ResetPassword(request)) == "RESET_INVALID"
    for mailed in (code, code.replace("trp_", "trv_")):
        assert await outcome(people.auth.VerifyEmail(pb.VerifyEmailRequest(code=mailed))) == "VERIFICATION_INVALID"


async def test_cve_2026_35597_a_wrong_old_password_stays_counted_though_the_call_fails(
    people: People, somebody: Somebody
) -> None:
    auth = somebody.stub(AuthServiceStub)
    for number in range(10):
        request = pb.ChangePasswordRequest(old_password=f"wrong {number}", new_password=NEW)
        assert await outcome(auth.ChangePassword(request)) == "LOGIN_FAILED"
    async with people.database() as database:
        failures = await database.fetchval(
            "SELECT failures FROM login_attempts WHERE address_hash = $1", addresses.parse(somebody.email).digest
        )
        noted = await database.fetchval(
            "SELECT count(*) FROM audit_logs WHERE user_id = $1 AND action = 'auth.password.change'", somebody.id
        )
    assert (failures, noted) == (10, 10)
    right = pb.ChangePasswordRequest(old_password=PASSWORD, new_password=NEW)
    assert await outcome(auth.ChangePassword(right)) == "LOGIN_FAILED"


async def test_cve_2026_1609_who_is_deactivated_gets_no_token_by_any_way(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    host = await people.admin()
    accept = invitation_pb.AcceptInvitationRequest(code=await host.invite())
    await somebody.stub(InvitationServiceStub).AcceptInvitation(accept)
    await ask(people.auth, somebody.email)
    code = await people.code(somebody.email, RESET)
    await admin.stub(UserServiceStub).DeactivateUser(user_pb.DeactivateUserRequest(user_id=somebody.id))
    auth = somebody.stub(AuthServiceStub)
    refresh = pb.RefreshRequest(refresh_token=somebody.login.tokens.refresh_token)
    found = {
        await outcome(people.login(somebody.email)),
        await outcome(people.auth.Refresh(refresh)),
        await outcome(people.auth.ResetPassword(pb.ResetPasswordRequest(code=code, new_password=NEW))),
        await outcome(auth.SwitchTenant(pb.SwitchTenantRequest(tenant_id=host.tenant_id))),
        await outcome(auth.ChangePassword(pb.ChangePasswordRequest(old_password=PASSWORD, new_password=NEW))),
        await outcome(somebody.reauthenticate()),
    }
    assert found <= {"LOGIN_FAILED", "SESSION_INVALID", "RESET_INVALID", "TOKEN_INVALID", "TENANT_NOT_FOUND"}
    async with people.server() as server:
        await ask(server, somebody.email)
    assert len(people.mailed(somebody.email, RESET)) == 1
