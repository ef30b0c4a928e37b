"""Register and VerifyEmail over the wire."""

import asyncio
import uuid

import pytest

from services.auth import addresses
from services.kit import faults
from tests.auth.people import PASSWORD, People, Somebody
from tests.refusals import outcome
from triptych.auth.v1 import auth_service_pb2 as pb, user_service_pb2 as user_pb
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role


async def test_an_invited_person_registers_proves_the_address_and_logs_in(people: People, admin: Somebody) -> None:
    somebody = await people.join(await admin.invite(Role.ROLE_VIEWER))
    assert somebody.login.user.email == somebody.email
    assert somebody.login.user.role == Role.ROLE_VIEWER
    assert somebody.login.user.verified
    assert somebody.tenant_id == admin.tenant_id


async def test_the_first_admin_is_bootstrapped(people: People) -> None:
    assert (await people.admin()).login.user.role == Role.ROLE_ADMIN


async def test_fifty_parallel_uses_of_a_one_use_invitation_make_one_person(people: People, admin: Somebody) -> None:
    code = await admin.invite()
    found = await asyncio.gather(*(outcome(people.register(code)) for _ in range(50)))
    assert sorted(found) == [""] + ["INVITATION_INVALID"] * 49
    members = await admin.stub(UserServiceStub).ListUsers(user_pb.ListUsersRequest())
    assert len(members.users) == 2


@pytest.mark.parametrize("change", ["expire_time = now() - interval '1 millisecond'", "revoke_time = now()"])
async def test_an_ended_invitation_is_invalid_without_any_cleanup(people: People, admin: Somebody, change: str) -> None:
    code = await admin.invite()
    async with people.database() as database:
        await database.execute(f"UPDATE invitations SET {change} WHERE tenant_id = $1 AND uses = 0", admin.tenant_id)
    assert await outcome(people.register(code)) == "INVITATION_INVALID"


async def test_unknown_foreign_and_malformed_invitations_look_alike(people: People, admin: Somebody) -> None:
    code = await admin.invite()
    stranger = (await people.admin()).tenant_id.replace("-", "")
    texts = set()
    for bad in ("x" * 16, code[:-1] + ("a" if code[-1] != "a" else "b"), f"tri_{stranger}_{code[-43:]}"):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await people.register(bad)
        texts.add((caught.value.reason, caught.value.text))
    assert len(texts) == 1


async def test_a_known_address_gets_the_same_answer_a_mail_and_no_second_person(
    people: People, admin: Somebody
) -> None:
    code = await admin.invite()
    answer = await people.auth.Register(
        pb.RegisterRequest(invitation_code=code, email=admin.email.upper(), password=PASSWORD, display_name="Again")
    )
    assert answer == pb.RegisterResponse()
    await people.mail(admin.email, "You have an account")
    await people.join(code)  # the invitation was not used


async def test_a_refused_registration_is_noted_without_the_address(people: People) -> None:
    address = people.address()
    assert await outcome(people.register("x" * 16, address)) == "INVITATION_INVALID"
    resource = f"address:{addresses.parse(address).digest.hex()}"
    async with people.database() as database:
        noted = await database.fetch("SELECT status, a::text AS whole FROM audit_logs a WHERE resource = $1", resource)
        recorded = await database.fetchval("SELECT action FROM outbox WHERE entity = $1", resource)
    assert [row["status"] for row in noted] == ["failure"]
    assert address not in noted[0]["whole"]
    assert recorded == "auth.user.refuse"


async def test_the_same_request_id_registers_once(people: People, admin: Somebody) -> None:
    request = {"request_id": str(uuid.uuid4()), "address": people.address()}
    code = await admin.invite()
    await people.register(code, **request)
    await people.register(code, **request)
    async with people.database() as database:
        found = await database.fetchval("SELECT count(*) FROM users WHERE email = $1", request["address"])
    assert found == 1


@pytest.mark.parametrize(
    "address",
    [
        "m\u0131ke@example.com",  # dotless i
        "\u0430lice@example.com",  # Cyrillic a
        "\uff4d\uff49\uff4b\uff45@example.com",  # full width
        "\u0130@example.com",  # I with a dot
        "a@example.com.",
        "nobody",
    ],
)
async def test_an_address_that_could_pass_for_another_is_refused(people: People, admin: Somebody, address: str) -> None:
    assert await outcome(people.register(await admin.invite(), address)) == "EMAIL_REFUSED"


@pytest.mark.parametrize(
    "password", ["passwordpassword", "PasswordPassword", "correcthorsebatterystaple", "111111111111111"]
)
async def test_a_common_password_is_refused(people: People, admin: Somebody, password: str) -> None:
    assert await outcome(people.register(await admin.invite(), password=password)) == "PASSWORD_REFUSED"


async def test_the_address_is_no_password(people: People, admin: Somebody) -> None:
    address = people.address()
    assert await outcome(people.register(await admin.invite(), address, password=address)) == "PASSWORD_REFUSED"


@pytest.mark.parametrize("password", ["short", "x" * 257, "é" * 256 * 3])
async def test_a_password_out_of_shape_is_refused_before_hashing(
    people: People, admin: Somebody, password: str
) -> None:
    assert await outcome(people.register(await admin.invite(), password=password)) == "REQUEST_INVALID"


async def test_a_nul_in_a_name_is_the_callers_mistake(people: People, admin: Somebody) -> None:
    assert await outcome(people.register(await admin.invite(), display_name="a\0b")) == "REQUEST_INVALID"


async def test_a_verification_code_is_good_once(people: People, admin: Somebody) -> None:
    address = await people.register(await admin.invite())
    code = await people.code(address)
    found = await asyncio.gather(
        *(outcome(people.auth.VerifyEmail(pb.VerifyEmailRequest(code=code))) for _ in range(10))
    )
    assert sorted(found) == [""] + ["VERIFICATION_INVALID"] * 9


async def test_a_verification_code_is_good_for_a_day(people: People, admin: Somebody) -> None:
    code = await people.code(await people.register(await admin.invite()))
    async with people.database() as database:
        await database.execute(
            "UPDATE email_verifications SET expire_time = now() WHERE tenant_id = $1", admin.tenant_id
        )
    assert await outcome(people.auth.VerifyEmail(pb.VerifyEmailRequest(code=code))) == "VERIFICATION_INVALID"
    assert await outcome(people.auth.VerifyEmail(pb.VerifyEmailRequest(code="x" * 16))) == "VERIFICATION_INVALID"


async def test_a_replayed_verification_gets_its_first_answer(people: People, admin: Somebody) -> None:
    code = await people.code(await people.register(await admin.invite()))
    request = pb.VerifyEmailRequest(code=code, request_id=str(uuid.uuid4()))
    assert await people.auth.VerifyEmail(request) == await people.auth.VerifyEmail(request)


async def test_secrets_are_stored_as_hashes_and_passwords_as_argon2id(people: People, admin: Somebody) -> None:
    code = await admin.invite()
    address = await people.register(code)
    async with people.database() as database:
        stored = await database.fetchval("SELECT password_hash FROM users WHERE email = $1", address)
        rows = await database.fetch(
            "SELECT i::text FROM invitations i UNION ALL SELECT v::text FROM email_verifications v"
        )
        events = await database.fetch("SELECT payload::text FROM outbox")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    for secret in (code, await people.code(address), PASSWORD):
        assert not any(secret in row[0] for row in (*rows, *events))
