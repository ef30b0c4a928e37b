"""UserService over the wire: profiles, filters, and the state of accounts."""

import asyncio
import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.auth import addresses
from services.kit import faults
from tests.auth.people import PASSWORD, People, Somebody
from tests.auth.tokens import over
from tests.refusals import outcome
from triptych.auth.v1 import (
    auth_service_pb2 as pb,
    invitation_service_pb2 as invitation_pb,
    user_service_pb2 as user_pb,
)
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.auth.v1.user_pb2 import User
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role


def users(who: Somebody) -> Any:
    return who.stub(UserServiceStub)


async def change(who: Somebody, paths: tuple[str, ...] = (), **fields: Any) -> User:
    settings = fields.pop("settings", None)
    user = User(**fields)
    if settings is not None:
        user.settings.update(settings)
    request = user_pb.UpdateUserRequest(user=user, update_mask=FieldMask(paths=paths))
    return (await users(who).UpdateUser(request)).user  # type: ignore[no-any-return]


async def listed(admin: Somebody, **filters: Any) -> set[str]:
    return {user.id for user in (await users(admin).ListUsers(user_pb.ListUsersRequest(**filters))).users}


async def deactivate(admin: Somebody, user_id: str, reason: str = "left") -> User:
    request = user_pb.DeactivateUserRequest(user_id=user_id, reason=reason)
    return (await users(admin).DeactivateUser(request)).user  # type: ignore[no-any-return]


async def reactivate(admin: Somebody, user_id: str) -> User:
    return (await users(admin).ReactivateUser(user_pb.ReactivateUserRequest(user_id=user_id))).user  # type: ignore[no-any-return]


async def delete(who: Somebody, user_id: str = "", **fields: str) -> None:
    await users(who).DeleteUser(user_pb.DeleteUserRequest(user_id=user_id, **fields))


async def refresh(people: People, who: Somebody) -> str:
    return await outcome(people.auth.Refresh(pb.RefreshRequest(refresh_token=who.login.tokens.refresh_token)))


async def guest(people: People, host: Somebody, visitor: Somebody, role: "Role.ValueType" = Role.ROLE_USER) -> None:
    """Make somebody of another tenant a member here as well."""
    accept = invitation_pb.AcceptInvitationRequest(code=await host.invite(role))
    await visitor.stub(InvitationServiceStub).AcceptInvitation(accept)


async def test_a_person_changes_their_name_and_settings_and_nobody_else_sees_the_settings(
    admin: Somebody, somebody: Somebody
) -> None:
    before = (await users(somebody).GetUser(user_pb.GetUserRequest())).user
    after = await change(somebody, display_name="Dana", settings={"theme": "dark"}, etag=before.etag)
    assert (after.display_name, after.settings["theme"]) == ("Dana", "dark")
    assert after == (await users(somebody).GetUser(user_pb.GetUserRequest())).user
    seen = (await users(admin).GetUser(user_pb.GetUserRequest(user_id=somebody.id))).user
    assert (seen.display_name, len(seen.settings.fields)) == ("Dana", 0)
    assert (seen.home_tenant_id, seen.second_factor, seen.HasField("deactivate_time")) == (
        admin.tenant_id,
        False,
        False,
    )
    assert await outcome(change(somebody, display_name="Again", etag=before.etag)) == "ETAG_MISMATCH"
    cleared = await change(somebody, paths=("settings",))
    assert (cleared.display_name, len(cleared.settings.fields)) == ("Dana", 0)


async def test_an_admin_changes_the_name_of_somebody_and_no_more(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    await change(somebody, settings={"theme": "dark"})
    assert (await change(admin, id=somebody.id, display_name="Renamed")).display_name == "Renamed"
    for paths in (("settings",), ()):
        assert await outcome(change(admin, paths, id=somebody.id, settings={"theme": "light"})) == "FIELD_PROTECTED"
    assert (await users(somebody).GetUser(user_pb.GetUserRequest())).user.settings["theme"] == "dark"
    assert await outcome(change(somebody, id=admin.id, display_name="x")) == "CALLER_NOT_PERMITTED"
    stranger = await people.admin()
    assert await outcome(change(stranger, id=somebody.id, display_name="x")) == "USER_NOT_FOUND"
    assert await outcome(change(admin, id="nobody", display_name="x")) == "REQUEST_INVALID"


@pytest.mark.parametrize("fields", [{"display_name": ""}, {"display_name": "x" * 121}])
async def test_a_name_out_of_shape_is_refused(somebody: Somebody, fields: dict[str, str]) -> None:
    assert await outcome(change(somebody, ("display_name",), **fields)) == "REQUEST_INVALID"


async def test_settings_are_limited_and_plain(somebody: Somebody) -> None:
    for settings in ({"x": "y" * 17_000}, {"x": float("nan")}, {"x": "a\0b"}):
        assert await outcome(change(somebody, settings=settings)) == "REQUEST_INVALID"


async def test_what_changed_is_recorded_and_no_address(people: People, somebody: Somebody) -> None:
    await change(somebody, display_name="Dana")
    async with people.database() as database:
        row = await database.fetchrow(
            "SELECT payload, o::text AS whole FROM outbox o WHERE entity = $1 AND action = 'auth.user.update'",
            f"user:{somebody.id}",
        )
    assert row is not None
    assert '"changed": ["display_name"]' in row["payload"]
    assert somebody.email not in row["whole"]


async def test_people_are_listed_by_filters(people: People, admin: Somebody) -> None:
    code = await admin.invite(Role.ROLE_VIEWER, max_uses=3)
    zoe, alex = await people.join(code), await people.join(code)
    unproven = await people.register(code, display_name="100% of_it")
    await change(zoe, display_name="ZOË Z")
    await deactivate(admin, alex.id)
    every = await listed(admin)
    (pending,) = await listed(admin, verified=False)
    assert every == {admin.id, zoe.id, alex.id, pending}
    assert await listed(admin, query="zoë") == {zoe.id}
    assert await listed(admin, query=unproven[:12].upper()) == {pending}
    assert await listed(admin, query="100% of_it") == {pending}
    assert await listed(admin, query="0%_of%") == set()  # no character of it is a pattern
    assert await listed(admin, role=Role.ROLE_VIEWER) == {zoe.id, alex.id, pending}
    assert await listed(admin, role=Role.ROLE_GUEST) == set()
    assert await listed(admin, active=False) == {alex.id}
    assert await listed(admin, active=True, verified=True) == {admin.id, zoe.id}
    page = await users(admin).ListUsers(user_pb.ListUsersRequest(page_size=1, role=Role.ROLE_VIEWER))
    other = user_pb.ListUsersRequest(page_token=page.next_page_token, role=Role.ROLE_ADMIN)
    assert await outcome(users(admin).ListUsers(other)) == "PAGE_TOKEN_INVALID"
    assert await outcome(users(admin).ListUsers(user_pb.ListUsersRequest(query="a\0b"))) == "REQUEST_INVALID"


async def test_who_is_deactivated_is_out_everywhere_until_reactivated(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    gone = await deactivate(admin, somebody.id)
    assert (gone.active, gone.HasField("deactivate_time")) == (False, True)
    assert await deactivate(admin, somebody.id, "another reason") == gone
    assert await refresh(people, somebody) == "SESSION_INVALID"
    assert await outcome(people.login(somebody.email)) == "LOGIN_FAILED"
    assert await over(lambda: users(somebody).GetUser(user_pb.GetUserRequest())) == "TOKEN_INVALID"
    back = await reactivate(admin, somebody.id)
    assert (back.active, back.HasField("deactivate_time")) == (True, False)
    assert (await reactivate(admin, somebody.id)) == back
    assert await refresh(people, somebody) == "SESSION_INVALID"
    await people.login(somebody.email)
    async with people.database() as database:
        noted = await database.fetch(
            "SELECT action, payload::text FROM outbox WHERE entity = $1 AND action ~ 'activate' ORDER BY event_id",
            f"user:{somebody.id}",
        )
    assert [row["action"].rpartition(".")[2] for row in noted] == [
        "deactivate",
        "deactivate",
        "reactivate",
        "reactivate",
    ]
    assert "left" in noted[0]["payload"]


async def test_a_tenant_keeps_an_admin_who_can_log_in(people: People, admin: Somebody) -> None:
    await admin.reauthenticate()
    for call in (deactivate(admin, admin.id), delete(admin)):
        assert await outcome(call) == "LAST_ADMIN"
    second = await people.join(await admin.invite(Role.ROLE_ADMIN))
    await deactivate(admin, second.id)
    assert await outcome(deactivate(admin, admin.id)) == "LAST_ADMIN"  # the second one cannot log in
    await reactivate(admin, second.id)
    await deactivate(admin, admin.id)


async def test_two_admins_who_deactivate_each_other_at_once_do_not_both_succeed(
    people: People, admin: Somebody
) -> None:
    second = await people.join(await admin.invite(Role.ROLE_ADMIN))
    for _ in range(3):
        found = await asyncio.gather(outcome(deactivate(admin, second.id)), outcome(deactivate(second, admin.id)))
        assert found.count("") == 1, found
        async with people.database() as database:
            await database.execute("UPDATE users SET disable_time = NULL WHERE default_tenant_id = $1", admin.tenant_id)
        admin, second = await people.login(admin.email), await people.login(second.email)


async def test_only_admins_of_the_home_tenant_look_after_an_account(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    host = await people.admin()
    await guest(people, host, somebody)
    assert (
        await users(host).GetUser(user_pb.GetUserRequest(user_id=somebody.id))
    ).user.home_tenant_id == admin.tenant_id
    for call in (
        deactivate(host, somebody.id),
        reactivate(host, somebody.id),
        users(host).UnlockUser(user_pb.UnlockUserRequest(user_id=somebody.id)),
        delete(host, somebody.id),
        change(host, id=somebody.id, display_name="x"),
    ):
        assert await outcome(call) == "USER_MANAGED_ELSEWHERE"
    for call in (
        deactivate(somebody, admin.id),
        reactivate(somebody, admin.id),
        users(somebody).UnlockUser(user_pb.UnlockUserRequest(user_id=admin.id)),
        delete(somebody, admin.id),
    ):
        assert await outcome(call) == "CALLER_NOT_PERMITTED"


async def test_somebody_of_another_tenant_looks_like_nobody(people: People, admin: Somebody) -> None:
    stranger = await people.admin()
    for user_id in (admin.id, str(uuid.uuid4())):
        for call in (
            deactivate(stranger, user_id),
            reactivate(stranger, user_id),
            users(stranger).UnlockUser(user_pb.UnlockUserRequest(user_id=user_id)),
            delete(stranger, user_id),
        ):
            with pytest.raises(faults.NotFound) as caught:
                await call
            assert (caught.value.reason, caught.value.text) == ("USER_NOT_FOUND", "there is no such person")


async def test_an_admin_ends_the_lock_of_an_address_and_of_second_factors(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    digest = addresses.parse(somebody.email).digest
    async with people.database() as database:
        await database.execute(
            "INSERT INTO login_attempts (address_hash, failures, lock_expire_time)"
            " VALUES ($1, 10, now() + interval '1 hour')",
            digest,
        )
        await database.execute("INSERT INTO factor_attempts (user_id, failures) VALUES ($1, 5)", somebody.id)
    assert await outcome(people.login(somebody.email)) == "LOGIN_FAILED"
    await users(admin).UnlockUser(user_pb.UnlockUserRequest(user_id=somebody.id, reason="it was them"))
    await people.login(somebody.email)
    async with people.database() as database:
        assert await database.fetchval("SELECT count(*) FROM factor_attempts WHERE user_id = $1", somebody.id) == 0


async def test_deleting_an_account_erases_its_secrets_and_frees_its_address(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    host = await people.admin()
    await guest(people, host, somebody)
    await somebody.reauthenticate()
    await somebody.stub(AuthServiceStub).ChangeEmail(pb.ChangeEmailRequest(new_email=(other := people.address())))
    await people.auth.RequestPasswordReset(pb.RequestPasswordResetRequest(email=somebody.email))
    code = await people.code(somebody.email, "A new password")
    moving = await people.code(other, "Prove your new address")
    user_id = uuid.UUID(somebody.id)
    async with people.database() as database:
        await database.execute(
            "INSERT INTO totp_secrets (user_id, sealed_secret, confirm_time) VALUES ($1, 'vault:v1:x', now())", user_id
        )
        await database.execute("INSERT INTO recovery_codes (user_id, code_hash) VALUES ($1, $2)", user_id, b"x" * 32)
        await database.execute(
            "INSERT INTO passkeys (user_id, credential_id, public_key, sign_count, backed_up, display_name)"
            " VALUES ($1, $2, 'k', 0, false, 'key')",
            user_id,
            user_id.bytes,
        )
        await database.execute(
            "INSERT INTO user_identities (tenant_id, provider, subject, user_id) VALUES ($1, 'discord', '123456', $2)",
            host.tenant_id,
            user_id,
        )
    await delete(somebody, reason="goodbye")
    async with people.database() as database:
        row = await database.fetchrow("SELECT * FROM users WHERE id = $1", user_id)
        assert row is not None
        assert (row["email"], row["password_hash"], row["settings"]) == ("", None, "{}")
        assert somebody.email.partition("@")[0] not in str(dict(row))
        for table in (
            "totp_secrets", "recovery_codes", "passkeys", "factor_attempts", "devices", "password_resets",
            "email_verifications", "login_tickets", "user_identities", "passkey_challenges",
        ):  # fmt: skip
            assert await database.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", user_id) == 0, table
        left = "SELECT count(*) FROM memberships WHERE user_id = $1 AND remove_time IS NULL"
        assert await database.fetchval(left, user_id) == 0
        sessions = await database.fetch("SELECT device_info, revoke_time FROM sessions WHERE user_id = $1", user_id)
        assert all(row["device_info"] == "{}" and row["revoke_time"] is not None for row in sessions)
        event = await database.fetchrow(
            "SELECT tenant_id, actor_id FROM outbox WHERE entity = $1 AND action = 'auth.user.delete'",
            f"user:{user_id}",
        )
        assert event is not None
        assert (str(event["tenant_id"]), event["actor_id"]) == (admin.tenant_id, somebody.id)
    assert await refresh(people, somebody) == "SESSION_INVALID"
    assert await outcome(people.login(somebody.email)) == "LOGIN_FAILED"
    reset = pb.ResetPasswordRequest(code=code, new_password="two herons, eight lamps")
    assert await outcome(people.auth.ResetPassword(reset)) == "RESET_INVALID"
    assert await outcome(people.auth.VerifyEmail(pb.VerifyEmailRequest(code=moving))) == "VERIFICATION_INVALID"
    for tenant_admin in (admin, host):
        assert somebody.id not in await listed(tenant_admin)
        request = user_pb.GetUserRequest(user_id=somebody.id)
        assert await outcome(users(tenant_admin).GetUser(request)) == "USER_NOT_FOUND"
    await people.register(await admin.invite(), somebody.email)
    await people.auth.VerifyEmail(pb.VerifyEmailRequest(code=await people.code(somebody.email, "Prove", 2)))
    assert (await people.login(somebody.email)).id != somebody.id


async def test_an_admin_deletes_somebody_whose_address_and_who_is_gone_then(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    request_id = str(uuid.uuid4())
    await delete(admin, somebody.id, request_id=request_id)
    assert await outcome(delete(admin, somebody.id)) == "USER_NOT_FOUND"
    assert await outcome(deactivate(admin, somebody.id)) == "USER_NOT_FOUND"
    assert await outcome(reactivate(admin, somebody.id)) == "USER_NOT_FOUND"
    assert await outcome(people.login(somebody.email, PASSWORD)) == "LOGIN_FAILED"


async def test_the_database_erases_nobody_who_was_not_deleted(people: People, admin: Somebody) -> None:
    db = people.suite.runtimes["auth"].db
    with pytest.raises(Exception, match="only who was deleted can be erased"):
        async with db.begin(tenant=admin.tenant_id) as tx:
            await tx.connection.execute("SELECT erase($1)", admin.id)


async def test_a_change_is_made_once_by_its_request_id(admin: Somebody, somebody: Somebody) -> None:
    request = user_pb.DeactivateUserRequest(user_id=somebody.id, request_id=str(uuid.uuid4()))
    first = await users(admin).DeactivateUser(request)
    await reactivate(admin, somebody.id)
    assert await users(admin).DeactivateUser(request) == first
    assert (await users(admin).GetUser(user_pb.GetUserRequest(user_id=somebody.id))).user.active
