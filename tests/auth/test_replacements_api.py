"""ChangePassword over the wire."""

import asyncio

from services.auth import addresses
from services.kit import faults
from tests.auth.people import PASSWORD, People, Somebody
from tests.refusals import outcome
from triptych.auth.v1 import auth_service_pb2 as pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub

NEW = "two herons, eight lamps, rain"


async def change(somebody: Somebody, old: str = PASSWORD, new: str = NEW) -> pb.Tokens:
    request = pb.ChangePasswordRequest(old_password=old, new_password=new)
    return (await somebody.stub(AuthServiceStub).ChangePassword(request)).tokens


async def failures(people: People, somebody: Somebody) -> int:
    digest = addresses.parse(somebody.email).digest
    async with people.database() as database:
        found = await database.fetchval("SELECT failures FROM login_attempts WHERE address_hash = $1", digest)
    return found or 0


async def refresh(people: People, tokens: pb.Tokens) -> str:
    return await outcome(people.auth.Refresh(pb.RefreshRequest(refresh_token=tokens.refresh_token)))


async def test_a_new_password_ends_all_sessions_and_begins_one(people: People, somebody: Somebody) -> None:
    other = await people.login(somebody.email)
    tokens = await change(somebody)
    assert [await refresh(people, found) for found in (somebody.login.tokens, other.login.tokens, tokens)] == [
        "SESSION_INVALID",
        "SESSION_INVALID",
        "",
    ]
    assert (await people.login(somebody.email, NEW)).id == somebody.id
    await people.mail(somebody.email, "Your password for Triptych was changed")
    verifier = people.suite.runtimes["auth"].verifier
    assert (await verifier.verify(tokens.access_token)).id == somebody.id
    async with people.database() as database:
        name = await database.fetchval(
            "SELECT device_info ->> 'name' FROM sessions WHERE user_id = $1 ORDER BY id DESC OFFSET 1 LIMIT 1",
            somebody.id,
        )
    assert name == "test"


async def test_a_wrong_old_password_counts_like_a_failed_login_and_is_noted(people: People, somebody: Somebody) -> None:
    assert await outcome(change(somebody, "not the old one")) == "LOGIN_FAILED"
    assert await failures(people, somebody) == 1
    await change(somebody)
    assert await failures(people, somebody) == 0
    async with people.database() as database:
        noted = await database.fetch(
            "SELECT status FROM audit_logs WHERE user_id = $1 AND action = 'auth.password.change' ORDER BY id",
            somebody.id,
        )
        refused = await database.fetchval(
            "SELECT count(*) FROM outbox WHERE action = 'auth.password.refuse' AND entity = $1", f"user:{somebody.id}"
        )
    assert [row["status"] for row in noted] == ["failure", "success"]
    assert refused == 1


async def test_the_right_old_password_is_refused_while_the_address_is_locked(
    people: People, somebody: Somebody
) -> None:
    async with people.database() as database:
        await database.execute(
            "INSERT INTO login_attempts (address_hash, failures, lock_expire_time)"
            " VALUES ($1, 10, now() + interval '1 hour')",
            addresses.parse(somebody.email).digest,
        )
    assert await outcome(change(somebody)) == "LOGIN_FAILED"


async def test_a_new_password_must_be_one_and_its_refusal_costs_no_attempt(people: People, somebody: Somebody) -> None:
    for new, reason in (
        ("passwordpassword", "PASSWORD_REFUSED"),
        (somebody.email, "PASSWORD_REFUSED"),
        ("short", "REQUEST_INVALID"),
    ):
        assert await outcome(change(somebody, new=new)) == reason
    assert await failures(people, somebody) == 0


async def test_two_changes_that_race_set_one_password(people: People, somebody: Somebody) -> None:
    given = [f"password number {n} of a race" for n in range(4)]
    found = await asyncio.gather(*(outcome(change(somebody, new=new)) for new in given))
    assert found.count("") == 1
    assert set(found) - {""} <= {"LOGIN_FAILED", "TOKEN_INVALID"}
    await people.login(somebody.email, given[found.index("")])


async def test_a_login_that_began_with_the_old_password_does_not_outlive_it(people: People, somebody: Somebody) -> None:
    async def login() -> pb.Tokens | None:
        try:
            return (await people.login(somebody.email)).login.tokens
        except faults.Unauthenticated:
            return None

    found, *_ = await asyncio.gather(asyncio.gather(*(login() for _ in range(6))), change(somebody))
    left = [await refresh(people, tokens) for tokens in found if tokens is not None]
    assert set(left) <= {"SESSION_INVALID"}


async def test_too_many_passwords_at_once_are_refused_before_anything_is_counted(
    people: People, somebody: Somebody
) -> None:
    bearer = (("authorization", f"Bearer {somebody.login.tokens.access_token}"),)
    async with people.server(bearer, hash_slots=1, hash_queue=-1) as auth:
        request = pb.ChangePasswordRequest(old_password=PASSWORD, new_password=NEW)
        assert await outcome(auth.ChangePassword(request)) == "SERVER_BUSY"
    assert await failures(people, somebody) == 0
