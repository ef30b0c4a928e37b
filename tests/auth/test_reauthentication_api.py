"""Reauthentication, and what is refused without one."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.auth import addresses
from services.kit import faults
from tests.auth.holders import Holder, enroll
from tests.auth.people import PASSWORD, People, Somebody
from triptych.auth.v1 import auth_service_pb2 as pb, factor_service_pb2 as factor_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub

STEPS_UP: list[tuple[Any, str, Any]] = [
    (FactorServiceStub, "EnrollTotp", factor_pb.EnrollTotpRequest()),
    (FactorServiceStub, "DisableTotp", factor_pb.DisableTotpRequest()),
    (FactorServiceStub, "RegenerateRecoveryCodes", factor_pb.RegenerateRecoveryCodesRequest()),
    (FactorServiceStub, "BeginPasskeyRegistration", factor_pb.BeginPasskeyRegistrationRequest()),
    (
        FactorServiceStub,
        "DeletePasskey",
        factor_pb.DeletePasskeyRequest(passkey_id="0" * 8 + "-0000" * 3 + "-" + "0" * 12),
    ),
    (AuthServiceStub, "ChangeEmail", pb.ChangeEmailRequest(new_email="elsewhere@example.com")),
]


async def refusal(call: Callable[[], Awaitable[object]]) -> str:
    with pytest.raises(faults.Fault) as caught:
        await call()
    return caught.value.reason


async def failures(people: People, address: str) -> int:
    async with people.database() as database:
        digest = addresses.parse(address).digest
        found = await database.fetchval("SELECT failures FROM login_attempts WHERE address_hash = $1", digest)
    return found or 0


@pytest.mark.parametrize(("kind", "method", "request_"), STEPS_UP, ids=[step[1] for step in STEPS_UP])
async def test_29_changes_of_factors_and_address_need_a_step_up(
    admin: Somebody, kind: Any, method: str, request_: Any
) -> None:
    call = getattr(admin.stub(kind), method)
    with pytest.raises(faults.PermissionDenied) as caught:
        await call(request_)
    assert caught.value.reason == "REAUTHENTICATION_REQUIRED"


async def test_a_reauthentication_counts_for_five_minutes_and_for_its_session_only(
    people: People, admin: Somebody
) -> None:
    answer = await admin.stub(AuthServiceStub).Reauthenticate(pb.ReauthenticateRequest(password=PASSWORD))
    left = answer.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(minutes=4, seconds=50) < left <= timedelta(minutes=5)
    enroll_totp = admin.stub(FactorServiceStub).EnrollTotp
    await enroll_totp(factor_pb.EnrollTotpRequest())
    elsewhere = await people.login(admin.email)
    other = elsewhere.stub(FactorServiceStub).EnrollTotp
    assert await refusal(lambda: other(factor_pb.EnrollTotpRequest())) == "REAUTHENTICATION_REQUIRED"
    async with people.database() as database:
        await database.execute(
            "UPDATE sessions SET reauthenticate_time = now() - interval '5 minutes' WHERE user_id = $1", admin.id
        )
    assert await refusal(lambda: enroll_totp(factor_pb.EnrollTotpRequest())) == "REAUTHENTICATION_REQUIRED"


async def test_29_its_password_is_counted_in_the_lockout(people: People, admin: Somebody) -> None:
    for count in range(1, 11):
        assert await refusal(lambda: admin.reauthenticate("wrong")) == "LOGIN_FAILED"
        assert await failures(people, admin.email) == count
    assert await refusal(admin.reauthenticate) == "LOGIN_FAILED"
    assert await refusal(lambda: people.login(admin.email)) == "LOGIN_FAILED"
    assert await failures(people, admin.email) == 10
    async with people.database() as database:
        noted = await database.fetchval(
            "SELECT count(*) FROM audit_logs WHERE user_id = $1 AND action = 'auth.session.reauthenticate'"
            " AND status = 'failure'",
            admin.id,
        )
    assert noted == 11


async def test_who_has_a_second_factor_gives_a_code_as_well(people: People, admin: Somebody) -> None:
    holder = await enroll(admin)
    await holder.change("UPDATE sessions SET reauthenticate_time = NULL WHERE user_id = $1", admin.id)
    await holder.forget_steps()
    assert await refusal(lambda: holder.reauthenticate(code="")) == "LOGIN_FAILED"
    assert await holder.failures() == 0  # no code is no guess
    assert await refusal(lambda: holder.reauthenticate(code=holder.app.wrong())) == "LOGIN_FAILED"
    assert await refusal(lambda: holder.reauthenticate("wrong")) == "LOGIN_FAILED"
    assert await holder.failures() == 1  # a wrong password spends no code
    assert await failures(people, admin.email) == 3
    await holder.reauthenticate()
    assert (await holder.failures(), await failures(people, admin.email)) == (0, 0)
    await holder.reauthenticate(code=holder.codes[0])
    assert await refusal(lambda: holder.reauthenticate(code=holder.codes[0])) == "LOGIN_FAILED"
    assert await refusal(lambda: holder.reauthenticate(code=holder.app.code())) == "LOGIN_FAILED"  # of the same step


async def test_wrong_codes_here_and_at_login_are_counted_together(admin: Somebody) -> None:
    holder = await enroll(admin)
    for _ in range(5):
        assert await refusal(lambda: holder.reauthenticate(code=holder.app.wrong())) == "LOGIN_FAILED"
    assert await refusal(holder.reauthenticate) == "FACTOR_RATE"
    await holder.change("DELETE FROM login_attempts")
    ticket = await holder.ticket()
    assert await refusal(lambda: holder.complete(ticket, holder.codes[0])) == "FACTOR_RATE"


async def test_a_session_that_has_ended_is_not_reauthenticated(people: People, admin: Somebody) -> None:
    holder = Holder(admin, app=None)  # type: ignore[arg-type]
    await holder.change(
        "UPDATE sessions SET revoke_time = now(), revoke_reason = 'logout' WHERE user_id = $1", admin.id
    )
    assert await refusal(admin.reauthenticate) == "TOKEN_INVALID"
    await holder.change("UPDATE users SET disable_time = now() WHERE id = $1", admin.id)
    assert await refusal(admin.reauthenticate) == "TOKEN_INVALID"


async def test_who_has_no_password_cannot_reauthenticate(people: People, admin: Somebody) -> None:
    async with people.database() as database:
        await database.execute("UPDATE users SET password_hash = NULL WHERE id = $1", admin.id)
    assert await refusal(lambda: admin.reauthenticate("")) == "LOGIN_FAILED"
