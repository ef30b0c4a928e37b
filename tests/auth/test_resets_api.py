"""RequestPasswordReset and ResetPassword over the wire."""

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from services.auth import addresses, mailings
from services.kit import faults
from tests.auth.people import PASSWORD, People, Somebody
from tests.auth.tokens import over
from tests.refusals import outcome
from triptych.auth.v1 import auth_service_pb2 as pb, user_service_pb2 as user_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub

if TYPE_CHECKING:
    from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

NEW = "two herons, eight lamps, rain"
LETTER = "A new password"


async def ask(people: People, address: str, auth: "AuthServiceAsyncStub | None" = None) -> None:
    """Ask for a code; the answer is always the same."""
    request = pb.RequestPasswordResetRequest(email=address)
    assert await (auth or people.auth).RequestPasswordReset(request) == pb.RequestPasswordResetResponse()


async def code_for(people: People, address: str, count: int = 1) -> str:
    """Ask for a code and give it, when so many mails have come."""
    await ask(people, address)
    return await people.code(address, LETTER, count)


async def reset(people: People, code: str, password: str = NEW, request_id: str = "") -> None:
    await people.auth.ResetPassword(pb.ResetPasswordRequest(code=code, new_password=password, request_id=request_id))


async def change(people: People, statement: str, *values: object) -> None:
    async with people.database() as database:
        await database.execute(statement, *values)


async def test_a_reset_sets_the_password_and_ends_everything_that_was_had_with_the_old_one(
    people: People, somebody: Somebody
) -> None:
    await reset(people, await code_for(people, somebody.email))
    assert (await people.login(somebody.email, NEW)).id == somebody.id
    with pytest.raises(faults.Unauthenticated):
        await people.login(somebody.email, PASSWORD)
    refresh = pb.RefreshRequest(refresh_token=somebody.login.tokens.refresh_token)
    assert await outcome(people.auth.Refresh(refresh)) == "SESSION_INVALID"
    await people.mail(somebody.email, "Your password for Triptych was changed")
    async with people.database() as database:
        revoked = await database.fetchval(
            "SELECT least_version FROM revocations WHERE subject_id = $1", uuid.UUID(somebody.id)
        )
        version = await database.fetchval("SELECT token_version FROM users WHERE id = $1", somebody.id)
        events = await database.fetch(
            "SELECT action, status FROM audit_logs WHERE user_id = $1 AND action LIKE 'auth.password.%' ORDER BY id",
            somebody.id,
        )
    assert revoked == version == 2
    assert [tuple(event) for event in events] == [
        ("auth.password.request_reset", "success"),
        ("auth.password.reset", "success"),
    ]


async def test_a_reset_token_is_good_once(people: People, somebody: Somebody) -> None:
    code = await code_for(people, somebody.email)
    await reset(people, code)
    assert await outcome(reset(people, code, "another password, a third one")) == "RESET_INVALID"
    await people.login(somebody.email, NEW)


async def test_two_resets_with_one_token_that_race_set_one_password(people: People, somebody: Somebody) -> None:
    code = await code_for(people, somebody.email)
    given = [f"password number {n} of a race" for n in range(4)]
    found = await asyncio.gather(*(outcome(reset(people, code, password)) for password in given))
    assert sorted(found) == [""] + ["RESET_INVALID"] * 3
    await people.login(somebody.email, given[found.index("")])


async def test_two_requests_that_race_leave_one_good_token(people: People, somebody: Somebody) -> None:
    await asyncio.gather(*(ask(people, somebody.email) for _ in range(mailings.MOST)))
    mails = await people.mails(somebody.email, LETTER, mailings.MOST)
    async with people.database() as database:
        good = await database.fetchval(
            "SELECT count(*) FROM password_resets WHERE user_id = $1 AND use_time IS NULL AND supersede_time IS NULL",
            somebody.id,
        )
    assert (len(mails), good) == (mailings.MOST, 1)


async def test_a_superseded_token_is_no_longer_good(people: People, somebody: Somebody) -> None:
    first = await code_for(people, somebody.email)
    second = await code_for(people, somebody.email, 2)
    assert await outcome(reset(people, first)) == "RESET_INVALID"
    await reset(people, second)


async def test_a_token_is_good_for_thirty_minutes(people: People, somebody: Somebody) -> None:
    code = await code_for(people, somebody.email)
    async with people.database() as database:
        life = await database.fetchval(
            "SELECT extract(epoch FROM expire_time - create_time)::int FROM password_resets WHERE user_id = $1",
            somebody.id,
        )
    assert life == 1800
    await change(people, "UPDATE password_resets SET expire_time = now() WHERE user_id = $1", somebody.id)
    assert await outcome(reset(people, code)) == "RESET_INVALID"


async def test_a_token_dies_with_the_address_that_it_went_to(people: People, somebody: Somebody) -> None:
    code = await code_for(people, somebody.email)
    await somebody.reauthenticate()
    address = people.address()
    await somebody.stub(AuthServiceStub).ChangeEmail(pb.ChangeEmailRequest(new_email=address))
    await people.auth.VerifyEmail(pb.VerifyEmailRequest(code=await people.code(address)))
    assert await outcome(reset(people, code)) == "RESET_INVALID"


@pytest.mark.parametrize("change_it", ["disable_time = now()", "delete_time = now()"])
async def test_who_may_not_log_in_gets_no_new_password(people: People, somebody: Somebody, change_it: str) -> None:
    code = await code_for(people, somebody.email)
    await change(people, f"UPDATE users SET {change_it} WHERE id = $1", somebody.id)
    assert await outcome(reset(people, code)) == "RESET_INVALID"


async def test_a_reset_proves_the_address_too(people: People, admin: Somebody) -> None:
    address = await people.register(await admin.invite())
    await reset(people, await code_for(people, address))
    await people.login(address, NEW)


async def test_a_second_factor_is_asked_for_after_a_reset(people: People, somebody: Somebody) -> None:
    code = await code_for(people, somebody.email)
    await change(
        people,
        "INSERT INTO totp_secrets (user_id, sealed_secret, confirm_time) VALUES ($1, 'vault:v1:x', now())",
        somebody.id,
    )
    await reset(people, code)
    answer = await people.auth.Login(pb.LoginRequest(email=somebody.email, password=NEW))
    assert answer.login_ticket
    assert not answer.HasField("tokens")


async def test_a_reset_ends_the_lock_of_the_address(people: People, somebody: Somebody) -> None:
    digest = addresses.parse(somebody.email).digest
    await change(
        people,
        "INSERT INTO login_attempts (address_hash, failures, lock_expire_time)"
        " VALUES ($1, 10, now() + interval '1 hour')",
        digest,
    )
    await reset(people, await code_for(people, somebody.email))
    await people.login(somebody.email, NEW)


async def test_a_replayed_reset_gets_its_first_answer(people: People, somebody: Somebody) -> None:
    code, request_id = await code_for(people, somebody.email), str(uuid.uuid4())
    await asyncio.gather(*(reset(people, code, request_id=request_id) for _ in range(3)))
    await reset(people, code, request_id=request_id)
    assert await outcome(reset(people, code, "quite another password", request_id)) == "REQUEST_ID_REUSED"


async def test_a_new_password_must_be_one(people: People, somebody: Somebody) -> None:
    code = await code_for(people, somebody.email)
    for password, reason in (
        ("passwordpassword", "PASSWORD_REFUSED"),
        (somebody.email, "PASSWORD_REFUSED"),
        ("short", "REQUEST_INVALID"),
    ):
        assert await outcome(reset(people, code, password)) == reason
    await reset(people, code)  # none of them used it up


async def test_unknown_foreign_and_malformed_tokens_look_alike(people: People, somebody: Somebody) -> None:
    code = await code_for(people, somebody.email)
    stranger = (await people.admin()).tenant_id.replace("-", "")
    said = set()
    for bad in ("x" * 16, code[:-1] + ("a" if code[-1] != "a" else "b"), f"trp_{stranger}_{code[-43:]}"):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await reset(people, bad)
        said.add((caught.value.reason, caught.value.text, str(caught.value.facts)))
    assert len(said) == 1


async def test_a_refused_reset_is_noted_without_the_code(people: People, admin: Somebody) -> None:
    code = f"trp_{admin.tenant_id.replace('-', '')}_{'A' * 43}"
    assert await outcome(reset(people, code)) == "RESET_INVALID"
    async with people.database() as database:
        rows = await database.fetch(
            "SELECT a::text FROM audit_logs a WHERE action = 'auth.password.reset' AND status = 'failure' UNION ALL"
            " SELECT o::text FROM outbox o WHERE action = 'auth.password.refuse'"
        )
    assert len(rows) >= 2
    assert not any(code in row[0] for row in rows)


async def test_five_mails_an_hour_go_to_an_address_and_the_answer_stays_the_same(
    people: People, somebody: Somebody
) -> None:
    async with people.server() as auth:
        for _ in range(mailings.MOST + 2):
            await ask(people, somebody.email, auth)
    assert len(people.mailed(somebody.email, LETTER)) == mailings.MOST
    digest = addresses.parse(somebody.email).digest
    await change(
        people, "UPDATE mail_requests SET begin_time = now() - interval '1 hour' WHERE address_hash = $1", digest
    )
    await ask(people, somebody.email)
    await people.mails(somebody.email, LETTER, mailings.MOST + 1)


async def test_mails_to_nobody_are_counted_as_well(people: People) -> None:
    address = people.address()
    async with people.server() as auth:
        for _ in range(mailings.MOST + 2):
            await ask(people, address, auth)
    async with people.database() as database:
        digest = addresses.parse(address).digest
        counted = await database.fetchval("SELECT requests FROM mail_requests WHERE address_hash = $1", digest)
    assert (counted, people.mailed(address)) == (mailings.MOST, [])


async def test_a_flood_of_requests_from_one_source_is_told_when_to_come_back(people: People) -> None:
    async with people.server(source_logins=0) as auth:
        for call in (
            auth.RequestPasswordReset(pb.RequestPasswordResetRequest(email=people.address())),
            auth.ResetPassword(pb.ResetPasswordRequest(code="x" * 16, new_password=NEW)),
            auth.ResendVerification(pb.ResendVerificationRequest(email=people.address())),
        ):
            with pytest.raises(faults.ResourceExhausted) as caught:
                await call
            assert caught.value.reason == "LOGIN_RATE"
            assert caught.value.retry_after is not None


async def test_too_many_passwords_at_once_are_refused_before_a_token_is_spent(
    people: People, somebody: Somebody
) -> None:
    code = await code_for(people, somebody.email)
    async with people.server(hash_slots=1, hash_queue=-1) as auth:
        request = pb.ResetPasswordRequest(code=code, new_password=NEW)
        assert await outcome(auth.ResetPassword(request)) == "SERVER_BUSY"
    await reset(people, code)


async def test_a_token_stops_being_accepted_when_the_password_changes_otherwise(
    people: People, somebody: Somebody
) -> None:
    code = await code_for(people, somebody.email)
    changed = pb.ChangePasswordRequest(old_password=PASSWORD, new_password=NEW)
    await somebody.stub(AuthServiceStub).ChangePassword(changed)
    assert await outcome(reset(people, code, "a third password for them")) == "RESET_INVALID"


async def test_access_tokens_end_with_the_password(people: People, somebody: Somebody) -> None:
    users = somebody.stub(UserServiceStub)
    await users.GetUser(user_pb.GetUserRequest())
    await reset(people, await code_for(people, somebody.email))
    assert await over(lambda: users.GetUser(user_pb.GetUserRequest())) == "TOKEN_INVALID"
