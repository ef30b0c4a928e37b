"""FactorService: TOTP and recovery codes of the caller."""

import asyncio
import base64
import uuid
from collections import Counter
from urllib.parse import parse_qs, urlsplit

from services.kit import faults
from tests.auth.authenticators import App, Passkey
from tests.auth.holders import Holder, add_passkey, enroll
from tests.auth.people import PASSWORD, People, Somebody
from tests.refusals import reason
from triptych.auth.v1 import auth_service_pb2 as pb, factor_service_pb2 as factor_pb
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub

Confirm = factor_pb.ConfirmTotpRequest


async def begin(somebody: Somebody) -> App:
    """Enroll and leave it unconfirmed."""
    await somebody.reauthenticate()
    return App((await somebody.stub(FactorServiceStub).EnrollTotp(factor_pb.EnrollTotpRequest())).secret)


async def test_a_secret_has_160_bits_is_sealed_and_counts_from_its_confirmation_on(
    people: People, admin: Somebody
) -> None:
    await admin.reauthenticate()
    factors = admin.stub(FactorServiceStub)
    enrolled = await factors.EnrollTotp(factor_pb.EnrollTotpRequest())
    uri = urlsplit(enrolled.uri)
    asked = parse_qs(uri.query)
    assert (uri.scheme, uri.netloc, asked["secret"], asked["issuer"]) == (
        "otpauth", "totp", [enrolled.secret], ["Triptych"],
    )  # fmt: skip
    assert len(base64.b32decode(enrolled.secret)) == 20
    async with people.database() as database:
        stored = await database.fetchval("SELECT t::text FROM totp_secrets t WHERE user_id = $1", admin.id)
    assert "vault:v1:" in stored
    assert enrolled.secret not in stored
    assert not (await factors.GetFactors(factor_pb.GetFactorsRequest())).factors.totp
    assert (await people.login(admin.email)).id == admin.id  # no code yet
    confirmed = await factors.ConfirmTotp(Confirm(code=App(enrolled.secret).code()))
    assert len(set(confirmed.recovery_codes)) == 10
    mine = (await factors.GetFactors(factor_pb.GetFactorsRequest())).factors
    assert (mine.totp, mine.HasField("totp_time"), mine.recovery_codes_left) == (True, True, 10)
    assert await reason(factors.EnrollTotp(factor_pb.EnrollTotpRequest())) == "FACTOR_EXISTS"
    assert (await people.auth.Login(pb.LoginRequest(email=admin.email, password=PASSWORD))).login_ticket


async def test_the_newest_secret_that_was_not_confirmed_counts(admin: Somebody) -> None:
    old = await begin(admin)
    new = await begin(admin)
    factors = admin.stub(FactorServiceStub)
    assert await reason(factors.ConfirmTotp(Confirm(code=old.code()))) == "ENROLLMENT_INVALID"
    await factors.ConfirmTotp(Confirm(code=new.code()))


async def test_an_enrollment_waits_fifteen_minutes_and_no_longer(people: People, admin: Somebody) -> None:
    app = await begin(admin)
    async with people.database() as database:
        await database.execute(
            "UPDATE totp_secrets SET enroll_time = now() - interval '15 minutes' WHERE user_id = $1", admin.id
        )
    factors = admin.stub(FactorServiceStub)
    assert await reason(factors.ConfirmTotp(Confirm(code=app.code()))) == "ENROLLMENT_INVALID"
    other = await people.admin()
    assert await reason(other.stub(FactorServiceStub).ConfirmTotp(Confirm(code="000000"))) == "ENROLLMENT_INVALID"


async def test_the_code_of_an_enrollment_is_not_guessed(admin: Somebody) -> None:
    app = await begin(admin)
    factors = admin.stub(FactorServiceStub)
    found = [await reason(factors.ConfirmTotp(Confirm(code=app.wrong()))) for _ in range(6)]
    assert Counter(found) == {"ENROLLMENT_INVALID": 5, "FACTOR_RATE": 1}
    assert await reason(factors.ConfirmTotp(Confirm(code=app.code()))) == "FACTOR_RATE"


async def test_twenty_confirmations_at_once_make_one_set_of_recovery_codes(admin: Somebody) -> None:
    app = await begin(admin)
    factors = admin.stub(FactorServiceStub)

    async def confirm() -> int:
        try:
            return len((await factors.ConfirmTotp(Confirm(code=app.code()))).recovery_codes)
        except (faults.FailedPrecondition, faults.ResourceExhausted):
            return 0

    assert sorted(await asyncio.gather(*(confirm() for _ in range(20)))) == [0] * 19 + [10]
    assert (await factors.GetFactors(factor_pb.GetFactorsRequest())).factors.recovery_codes_left == 10


async def test_a_repeated_request_answers_the_same_without_secrets(admin: Somebody) -> None:
    await admin.reauthenticate()
    factors = admin.stub(FactorServiceStub)
    request = factor_pb.EnrollTotpRequest(request_id=str(uuid.uuid4()))
    app = App((await factors.EnrollTotp(request)).secret)
    assert not (await factors.EnrollTotp(request)).secret
    confirm = Confirm(code=app.code(), request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(factors.ConfirmTotp(confirm) for _ in range(10)))
    assert sorted(len(answer.recovery_codes) for answer in answers) == [0] * 9 + [10]
    again = factor_pb.RegenerateRecoveryCodesRequest(request_id=str(uuid.uuid4()))
    assert len((await factors.RegenerateRecoveryCodes(again)).recovery_codes) == 10
    assert not (await factors.RegenerateRecoveryCodes(again)).recovery_codes


async def test_totp_is_disabled_with_its_codes_and_disabling_none_is_no_error(people: People, admin: Somebody) -> None:
    holder = await enroll(admin)
    await holder.factors.DisableTotp(factor_pb.DisableTotpRequest())
    mine = (await holder.factors.GetFactors(factor_pb.GetFactorsRequest())).factors
    assert (mine.totp, mine.recovery_codes_left) == (False, 0)
    await holder.factors.DisableTotp(factor_pb.DisableTotpRequest())
    assert (await people.login(admin.email)).id == admin.id


async def test_recovery_codes_stay_while_another_factor_is_left(admin: Somebody) -> None:
    holder = await enroll(admin)
    passkey = await add_passkey(admin, Passkey())
    assert not passkey.recovery_codes  # it is not the first factor
    await holder.factors.DisableTotp(factor_pb.DisableTotpRequest())
    mine = (await holder.factors.GetFactors(factor_pb.GetFactorsRequest())).factors
    assert (mine.totp, mine.recovery_codes_left, len(mine.passkeys)) == (False, 10, 1)
    app = await begin_with_code(holder)
    assert not (await holder.factors.ConfirmTotp(Confirm(code=app.code()))).recovery_codes
    await holder.factors.DisableTotp(factor_pb.DisableTotpRequest())
    await holder.factors.DeletePasskey(factor_pb.DeletePasskeyRequest(passkey_id=passkey.passkey.id))
    assert (await holder.factors.GetFactors(factor_pb.GetFactorsRequest())).factors.recovery_codes_left == 0


async def begin_with_code(holder: Holder) -> App:
    return App((await holder.factors.EnrollTotp(factor_pb.EnrollTotpRequest())).secret)


async def test_new_recovery_codes_end_the_old_ones(admin: Somebody) -> None:
    holder = await enroll(admin)
    made = await holder.factors.RegenerateRecoveryCodes(factor_pb.RegenerateRecoveryCodesRequest())
    assert not set(made.recovery_codes) & set(holder.codes)
    assert await reason(holder.complete(await holder.ticket(), holder.codes[0])) == "LOGIN_FAILED"
    await holder.complete(await holder.ticket(), made.recovery_codes[0])


async def test_recovery_codes_stand_in_for_something(admin: Somebody) -> None:
    await admin.reauthenticate()
    factors = admin.stub(FactorServiceStub)
    request = factor_pb.RegenerateRecoveryCodesRequest()
    assert await reason(factors.RegenerateRecoveryCodes(request)) == "FACTOR_MISSING"


async def test_all_of_it_is_written_down_without_a_secret(people: People, admin: Somebody) -> None:
    holder = await enroll(admin)
    await holder.factors.RegenerateRecoveryCodes(factor_pb.RegenerateRecoveryCodesRequest())
    await holder.factors.DisableTotp(factor_pb.DisableTotpRequest())
    async with people.database() as database:
        events = await database.fetch(
            "SELECT action FROM audit_logs WHERE user_id = $1 AND action LIKE 'auth.factor.%' ORDER BY id", admin.id
        )
        sent = await database.fetch("SELECT action FROM outbox WHERE entity = $1", f"user:{admin.id}")
    actions = [f"auth.factor.{verb}" for verb in ("enroll_totp", "confirm_totp", "regenerate_codes", "disable_totp")]
    assert [row["action"] for row in events] == actions
    assert set(actions) <= {row["action"] for row in sent}
