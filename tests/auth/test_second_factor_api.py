"""Logins with a second factor: tickets, TOTP, recovery codes, and those who try to do without."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable

import pytest

from services.auth import totp
from services.kit import faults
from tests.auth.authenticators import App
from tests.auth.holders import Holder, enroll
from tests.auth.people import PASSWORD, People, Somebody
from triptych.auth.v1 import auth_service_pb2 as pb, factor_service_pb2 as factor_pb, user_service_pb2 as user_pb
from triptych.auth.v1.factor_pb2 import FactorKind
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub


@pytest.fixture
async def holder(people: People, admin: Somebody) -> Holder:
    made = await enroll(admin)
    await made.forget_steps()
    return made


async def refusal(holder: Holder, ticket: str, code: str) -> str:
    """Give the reason for which a code is refused; empty when it is not."""
    try:
        await holder.complete(ticket, code)
    except (faults.Unauthenticated, faults.ResourceExhausted) as fault:
        return fault.reason
    return ""


@pytest.mark.parametrize(
    ("code", "now"),
    [
        ("081804", 1111111109),
        ("050471", 1111111111),
        ("005924", 1234567890),
        ("279037", 2000000000),
        ("353130", 20000000000),
    ],
)
def test_codes_are_those_of_rfc_6238(code: str, now: int) -> None:
    secret = b"12345678901234567890"
    assert totp.fitting(secret, code, now) == now // 30
    assert totp.fitting(secret, code, now + 30) == totp.fitting(secret, code, now - 30) == now // 30
    assert totp.fitting(secret, code, now + 60) is None
    assert totp.fitting(secret, code, now - 60) is None


async def test_a_password_gives_a_ticket_and_ticket_and_code_give_a_session(holder: Holder) -> None:
    request = pb.LoginRequest(email=holder.somebody.email, password=PASSWORD, device_name="phone")
    answer = await holder.people.auth.Login(request)
    assert list(answer.factors) == [FactorKind.FACTOR_KIND_TOTP, FactorKind.FACTOR_KIND_RECOVERY_CODE]
    assert not answer.HasField("tokens")
    assert not answer.device_token
    done = await holder.complete(answer.login_ticket, holder.app.code())
    assert (done.user.id, done.tenant_id) == (holder.somebody.id, holder.somebody.tenant_id)
    assert done.user.second_factor
    assert done.device_token
    metadata = (("authorization", f"Bearer {done.tokens.access_token}"),)
    users = UserServiceStub(holder.people.suite.channel(UserServiceStub, metadata))
    assert (await users.GetUser(user_pb.GetUserRequest())).user.id == holder.somebody.id
    async with holder.people.database() as database:
        name = await database.fetchval(
            "SELECT device_info ->> 'name' FROM sessions WHERE user_id = $1 ORDER BY id DESC LIMIT 1",
            holder.somebody.id,
        )
    assert name == "phone"


async def test_a_device_that_is_known_gets_no_second_token_with_a_second_factor(holder: Holder) -> None:
    done = await holder.complete(await holder.ticket(), holder.app.code())
    await holder.forget_steps()
    again = await holder.complete(await holder.ticket(device_token=done.device_token), holder.app.code())
    assert not again.device_token


async def test_24_a_step_is_good_once_and_no_older_one_after_it(holder: Holder) -> None:
    code, older = holder.app.code(), holder.app.code(-1)
    await holder.complete(await holder.ticket(), code)
    assert await refusal(holder, await holder.ticket(), code) == "LOGIN_FAILED"
    assert await refusal(holder, await holder.ticket(), older) == "LOGIN_FAILED"


@pytest.mark.parametrize("tickets", [1, 20])
async def test_24_twenty_uses_of_one_code_at_once_make_one_session(holder: Holder, tickets: int) -> None:
    """Zitadel #6452: a code could be replayed."""
    given = [await holder.ticket() for _ in range(tickets)]
    code = holder.app.code()
    found = await asyncio.gather(*(refusal(holder, given[n % tickets], code) for n in range(20)))
    assert Counter(found) == {"": 1, "LOGIN_FAILED": 19}


async def test_25_cve_2025_64102_codes_cannot_be_guessed_with_ever_new_logins(holder: Holder) -> None:
    found = [await refusal(holder, await holder.ticket(), holder.app.wrong()) for _ in range(5)]
    assert found == ["LOGIN_FAILED"] * 5
    with pytest.raises(faults.ResourceExhausted) as caught:
        await holder.complete(await holder.ticket(), holder.app.code())
    assert caught.value.reason == "FACTOR_RATE"
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after.total_seconds() <= 15 * 60
    with pytest.raises(faults.ResourceExhausted):
        await holder.complete(await holder.ticket(), holder.codes[0])
    await holder.change(
        "UPDATE factor_attempts SET begin_time = begin_time - interval '15 minutes' WHERE user_id = $1",
        holder.somebody.id,
    )
    await holder.complete(await holder.ticket(), holder.app.code())
    assert await holder.failures() == 0


async def test_25_parallel_guesses_get_no_more_attempts_than_others(holder: Holder) -> None:
    ticket = await holder.ticket()
    found = await asyncio.gather(*(refusal(holder, ticket, holder.app.wrong()) for _ in range(30)))
    assert Counter(found) == {"LOGIN_FAILED": 5, "FACTOR_RATE": 25}
    assert await holder.failures() == 5


async def test_26_the_code_of_the_enrollment_is_spent(people: People, admin: Somebody) -> None:
    await admin.reauthenticate()
    factors = admin.stub(FactorServiceStub)
    secret = (await factors.EnrollTotp(factor_pb.EnrollTotpRequest())).secret
    holder = Holder(admin, app := App(secret))
    code = app.code()
    await factors.ConfirmTotp(factor_pb.ConfirmTotpRequest(code=code))
    assert await refusal(holder, await holder.ticket(), code) == "LOGIN_FAILED"


async def test_27_a_ticket_is_no_token(holder: Holder) -> None:
    ticket = await holder.ticket()
    metadata = (("authorization", f"Bearer {ticket}"),)
    users = UserServiceStub(holder.people.suite.channel(UserServiceStub, metadata))
    with pytest.raises(faults.Unauthenticated):
        await users.GetUser(user_pb.GetUserRequest())
    factors = FactorServiceStub(holder.people.suite.channel(FactorServiceStub, metadata))
    with pytest.raises(faults.Unauthenticated):
        await factors.DisableTotp(factor_pb.DisableTotpRequest())
    with pytest.raises(faults.Unauthenticated):
        await holder.people.auth.Refresh(pb.RefreshRequest(refresh_token=ticket))


async def test_28_a_recovery_code_twice_at_once_makes_one_session(holder: Holder) -> None:
    tickets = [await holder.ticket(), await holder.ticket()]
    found = await asyncio.gather(*(refusal(holder, ticket, holder.codes[0]) for ticket in tickets))
    assert sorted(found) == ["", "LOGIN_FAILED"]
    assert await refusal(holder, await holder.ticket(), holder.codes[0]) == "LOGIN_FAILED"
    left = (await holder.factors.GetFactors(factor_pb.GetFactorsRequest())).factors.recovery_codes_left
    assert left == 9


async def test_recovery_codes_may_be_written_as_people_do(holder: Holder) -> None:
    assert all(re.fullmatch(r"([A-Z2-7]{4}-){5}[A-Z2-7]{4}", code) for code in holder.codes)
    await holder.complete(await holder.ticket(), holder.codes[0].lower().replace("-", " "))
    await holder.complete(await holder.ticket(), holder.codes[1].replace("-", ""))


async def test_cve_2025_46815_a_ticket_begins_one_session(holder: Holder) -> None:
    ticket = await holder.ticket()
    await holder.complete(ticket, holder.codes[0])
    assert await refusal(holder, ticket, holder.codes[1]) == "LOGIN_FAILED"
    await holder.complete(await holder.ticket(), holder.codes[1])  # which was not spent by that


async def test_a_ticket_ends_with_its_time_and_with_whatever_ends_sessions(holder: Holder) -> None:
    user = holder.somebody.id
    for statement in (
        "UPDATE login_tickets SET expire_time = now() WHERE user_id = $1",
        "UPDATE users SET session_epoch = session_epoch + 1 WHERE id = $1",
        "UPDATE users SET disable_time = now() WHERE id = $1",
    ):
        ticket = await holder.ticket()
        await holder.change(statement, user)
        assert await refusal(holder, ticket, holder.app.code()) == "LOGIN_FAILED"
    await holder.change("UPDATE users SET disable_time = NULL WHERE id = $1", user)
    ticket = await holder.ticket()
    await holder.change("UPDATE memberships SET remove_time = now() WHERE user_id = $1", user)
    assert await refusal(holder, ticket, holder.app.code()) == "LOGIN_FAILED"
    assert await holder.failures() == 0


async def test_cve_2025_64103_the_second_factor_is_not_skipped(holder: Holder) -> None:
    done = await holder.complete(await holder.ticket(), holder.app.code())
    for fields in ({"device_token": done.device_token}, {"device_name": "x"}):
        answer = await holder.people.auth.Login(
            pb.LoginRequest(email=holder.somebody.email, password=PASSWORD, **fields)
        )
        assert answer.login_ticket
        assert not answer.HasField("tokens")
        assert not answer.device_token
    async with holder.people.database() as database:
        sessions = await database.fetchval("SELECT count(*) FROM sessions WHERE user_id = $1", holder.somebody.id)
    assert sessions == 2


async def test_cve_2026_105211_no_code_and_no_secret_is_given_to_the_caller(holder: Holder) -> None:
    request = pb.LoginRequest(email=holder.somebody.email, password=PASSWORD)
    answers = [
        await holder.people.auth.Login(request),
        await holder.factors.GetFactors(factor_pb.GetFactorsRequest()),
        await holder.complete(await holder.ticket(), holder.app.code()),
    ]
    async with holder.people.database() as database:
        written = await database.fetch("SELECT o::text FROM outbox o UNION ALL SELECT a::text FROM audit_logs a")
        stored = await database.fetchval(
            "SELECT sealed_secret FROM totp_secrets WHERE user_id = $1", holder.somebody.id
        )
    whole = " ".join([*map(str, answers), *(row[0] for row in written), stored])
    secrets = [holder.app.secret, *(holder.app.code(n) for n in (-1, 0, 1)), *holder.codes]
    assert not any(re.search(rf"\b{secret}\b", whole) for secret in secrets)


async def test_cve_2026_119128_a_forged_ticket_is_worth_nothing(holder: Holder, people: People) -> None:
    ticket = await holder.ticket()
    other = await people.admin()
    kind, tenant, secret = ticket.split("_", 2)
    forged = (
        f"{kind}_{tenant}_{'A' * 43}",
        f"{kind}_{other.tenant_id.replace('-', '')}_{secret}",
        f"trv_{tenant}_{secret}",
        ticket[:-1],
        "not a ticket at all",
    )
    assert {await refusal(holder, each, holder.app.code()) for each in forged} == {"LOGIN_FAILED"}
    assert await holder.failures() == 0
    async with people.database() as database:
        mine = await database.fetchval(
            "SELECT count(*) FROM audit_logs WHERE tenant_id = $1 AND action = 'auth.factor.refuse'", other.tenant_id
        )
    assert mine == 0  # no tenant's log is written for the naming
    await holder.complete(ticket, holder.app.code())


async def test_kratos_4317_what_was_mailed_is_no_second_factor(holder: Holder) -> None:
    email = holder.somebody.email
    await holder.people.auth.RequestPasswordReset(pb.RequestPasswordResetRequest(email=email))
    mailed = await holder.people.code(email, "password")
    for code in (mailed[:48], PASSWORD, mailed[-43:]):
        assert await refusal(holder, await holder.ticket(), code) == "LOGIN_FAILED"
    assert await refusal(holder, mailed, holder.app.code()) == "LOGIN_FAILED"
    with pytest.raises(faults.Unauthenticated):
        await holder.ticket(password=holder.app.code())
    with pytest.raises(faults.Unauthenticated):
        await holder.ticket(password=holder.codes[0])


async def test_cve_2026_35597_wrong_codes_are_counted_though_the_login_fails(holder: Holder) -> None:
    assert await refusal(holder, await holder.ticket(), holder.app.wrong()) == "LOGIN_FAILED"
    assert await holder.failures() == 1
    async with holder.people.database() as database:
        noted = await database.fetch(
            "SELECT status, details, ip_address FROM audit_logs WHERE user_id = $1 AND action = 'auth.factor.refuse'",
            holder.somebody.id,
        )
        sent = await database.fetchval(
            "SELECT count(*) FROM outbox WHERE entity = $1 AND action = 'auth.factor.refuse'",
            f"user:{holder.somebody.id}",
        )
    assert [(row["status"], row["ip_address"]) for row in noted] == [("failure", "127.0.0.1")]
    assert sent == 1


async def test_a_secret_moved_to_another_person_does_not_open(holder: Holder, people: People) -> None:
    other = await enroll(await people.admin())
    await other.forget_steps()
    async with people.database() as database:
        await database.execute(
            "UPDATE totp_secrets SET sealed_secret = (SELECT sealed_secret FROM totp_secrets WHERE user_id = $1)"
            " WHERE user_id = $2",
            other.somebody.id,
            holder.somebody.id,
        )
    assert await refusal(holder, await holder.ticket(), other.app.code()) == "LOGIN_FAILED"
    await other.complete(await other.ticket(), other.app.code())


async def test_a_flood_of_codes_from_one_source_is_told_when_to_come_back(people: People) -> None:
    async with people.server(source_logins=0) as auth:
        flood: tuple[Awaitable[object], ...] = (
            auth.CompleteLogin(pb.CompleteLoginRequest(login_ticket="x" * 16, totp_code="000000")),
            auth.BeginPasskeyLogin(pb.BeginPasskeyLoginRequest()),
            auth.FinishPasskeyLogin(pb.FinishPasskeyLoginRequest(credential_json="{}")),
        )
        for call in flood:
            with pytest.raises(faults.ResourceExhausted) as caught:
                await call
            assert caught.value.reason == "LOGIN_RATE"
            assert caught.value.retry_after is not None
