"""What a second factor holds back from who has token and password, and the mails about changed factors."""

from typing import Any

import pytest

from services.auth import addresses
from services.auth.factors import FactorMissing
from services.auth.logins import LoginFailed
from services.auth.reauthentications import ReauthenticationRequired
from tests.auth.authenticators import App, Passkey
from tests.auth.holders import add_passkey, enroll
from tests.auth.people import PASSWORD, People, Somebody
from tests.refusals import reason
from triptych.auth.v1 import auth_service_pb2 as pb, factor_service_pb2 as factor_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub

NEW = "two herons, eight lamps, rain"
SUBJECT = "The second factors of your Triptych account were changed"
ADDED = "A passkey was added to your account"
REMOVED = "A passkey was removed from your account"
ON = "Codes from an authenticator app (TOTP) were turned on for your account"
OFF = "Codes from an authenticator app (TOTP) were turned off for your account"
CODES = "New recovery codes were made for your account, and the old ones have ended"


async def change(somebody: Somebody, old: str = PASSWORD) -> pb.ChangePasswordResponse:
    request = pb.ChangePasswordRequest(old_password=old, new_password=NEW)
    return await somebody.stub(AuthServiceStub).ChangePassword(request)


async def run(people: People, statement: str, *values: object) -> None:
    """Change the database as nobody can."""
    async with people.database() as database:
        await database.execute(statement, *values)


async def forget(somebody: Somebody) -> None:
    """Let the five minutes of all reauthentications be over."""
    statement = "UPDATE sessions SET reauthenticate_time = NULL WHERE user_id = $1"
    await run(somebody.people, statement, somebody.id)


async def failures(somebody: Somebody) -> int:
    digest = addresses.parse(somebody.email).digest
    async with somebody.people.database() as database:
        found = await database.fetchval("SELECT failures FROM login_attempts WHERE address_hash = $1", digest)
    return found or 0


async def without_codes(somebody: Somebody) -> Passkey:
    """Leave somebody with a passkey, and nothing that gives codes."""
    await somebody.reauthenticate()
    await add_passkey(somebody, passkey := Passkey())
    await run(somebody.people, "UPDATE recovery_codes SET use_time = now() WHERE user_id = $1", somebody.id)
    await forget(somebody)
    return passkey


async def log_in(somebody: Somebody, passkey: Passkey, *, ticket: str = "") -> Somebody:
    """Log in with the passkey, alone or behind a ticket."""
    auth = somebody.people.auth
    begun = await auth.BeginPasskeyLogin(pb.BeginPasskeyLoginRequest(login_ticket=ticket))
    done = await auth.FinishPasskeyLogin(
        pb.FinishPasskeyLoginRequest(credential_json=passkey.use(begun.options_json), login_ticket=ticket)
    )
    answer = pb.LoginResponse(tokens=done.tokens, user=done.user, tenant_id=done.tenant_id)
    return Somebody(somebody.people, somebody.email, answer)


async def test_token_and_password_do_not_replace_the_password_of_who_has_a_second_factor(
    people: People, somebody: Somebody
) -> None:
    holder = await enroll(somebody)
    await holder.forget_steps()
    await forget(somebody)
    for old in (PASSWORD, "not the old one"):  # no oracle: the password is not looked at
        assert await reason(change(somebody, old)) == ReauthenticationRequired.reason
    assert await failures(somebody) == 0
    assert await holder.ticket()  # the password is as it was

    await holder.reauthenticate()
    assert await reason(change(somebody, "not the old one")) == LoginFailed.reason
    assert (await change(somebody)).tokens.access_token
    assert await holder.ticket(password=NEW)


async def test_a_reauthentication_elsewhere_or_long_ago_does_not_count_for_a_new_password(
    people: People, somebody: Somebody
) -> None:
    elsewhere = await people.login(somebody.email)
    await enroll(somebody)
    assert await reason(change(elsewhere)) == ReauthenticationRequired.reason
    old = "UPDATE sessions SET reauthenticate_time = now() - interval '5 minutes' WHERE user_id = $1"
    await run(people, old, somebody.id)
    assert await reason(change(somebody)) == ReauthenticationRequired.reason


async def test_a_password_alone_does_not_reauthenticate_who_has_passkeys_only(somebody: Somebody) -> None:
    passkey = await without_codes(somebody)
    assert await reason(somebody.reauthenticate("wrong")) == LoginFailed.reason
    assert await failures(somebody) == 1
    for _ in range(2):
        assert await reason(somebody.reauthenticate()) == FactorMissing.reason
    assert await failures(somebody) == 0
    factors = somebody.stub(FactorServiceStub)
    assert await reason(factors.EnrollTotp(factor_pb.EnrollTotpRequest())) == ReauthenticationRequired.reason

    again = await log_in(somebody, passkey)
    await again.stub(FactorServiceStub).EnrollTotp(factor_pb.EnrollTotpRequest())
    assert await reason(factors.EnrollTotp(factor_pb.EnrollTotpRequest())) == ReauthenticationRequired.reason
    assert (await change(again)).tokens.access_token


async def test_the_missing_factor_is_not_told_while_the_address_is_locked(people: People, somebody: Somebody) -> None:
    await without_codes(somebody)
    await run(
        people,
        "INSERT INTO login_attempts (address_hash, failures, lock_expire_time)"
        " VALUES ($1, 10, now() + interval '1 hour')",
        addresses.parse(somebody.email).digest,
    )
    assert await reason(somebody.reauthenticate()) == LoginFailed.reason


@pytest.mark.parametrize("verified", [True, False])
async def test_a_passkey_behind_a_ticket_counts_when_it_verified_the_person(
    people: People, somebody: Somebody, verified: bool
) -> None:
    passkey = await without_codes(somebody)
    passkey.verified = verified
    login = await people.auth.Login(pb.LoginRequest(email=somebody.email, password=PASSWORD))
    again = await log_in(somebody, passkey, ticket=login.login_ticket)

    call = again.stub(FactorServiceStub).EnrollTotp(factor_pb.EnrollTotpRequest())
    if verified:
        assert (await call).secret
    else:
        assert await reason(call) == ReauthenticationRequired.reason


async def test_each_change_of_factors_is_told_by_mail_without_a_secret(people: People, somebody: Somebody) -> None:
    await somebody.reauthenticate()
    factors = somebody.stub(FactorServiceStub)
    secrets: list[str] = []
    told: list[str] = []

    async def happened(what: str, answer: Any) -> None:
        """Look for one more mail, which says this."""
        told.append(what)
        secrets.extend(getattr(answer, "recovery_codes", []))
        mails = await people.mails(somebody.email, SUBJECT, len(told))
        texts = [" ".join(mail.get_content().split()) for mail in mails]
        assert len(texts) == len(told)
        assert all(any(text.startswith(f"{each} on ") for text in texts) for each in told)
        for text in texts:
            assert " UTC. " in text
            assert "set a new password now" in text
            assert "a key" not in text
            assert not any(secret in text for secret in secrets)

    secrets.append(secret := (await factors.EnrollTotp(factor_pb.EnrollTotpRequest())).secret)
    await happened(ON, await factors.ConfirmTotp(factor_pb.ConfirmTotpRequest(code=App(secret).code())))
    made = await add_passkey(somebody, Passkey())
    await happened(ADDED, made)
    new = await factors.RegenerateRecoveryCodes(factor_pb.RegenerateRecoveryCodesRequest())
    await happened(CODES, new)
    await happened(OFF, await factors.DisableTotp(factor_pb.DisableTotpRequest()))
    removal = factor_pb.DeletePasskeyRequest(passkey_id=made.passkey.id)
    await happened(REMOVED, await factors.DeletePasskey(removal))
    assert len(secrets) == 21


async def test_what_changes_nothing_is_not_told(people: People, somebody: Somebody) -> None:
    await somebody.reauthenticate()
    factors = somebody.stub(FactorServiceStub)
    repeated = factor_pb.RegenerateRecoveryCodesRequest(request_id="01890000-0000-7000-8000-000000000003")
    await factors.EnrollTotp(factor_pb.EnrollTotpRequest())
    await factors.DisableTotp(factor_pb.DisableTotpRequest())  # it waited for its confirmation
    await factors.DisableTotp(factor_pb.DisableTotpRequest())
    assert await reason(factors.RegenerateRecoveryCodes(repeated)) == FactorMissing.reason
    await add_passkey(somebody, Passkey())
    for _ in range(2):
        await factors.RegenerateRecoveryCodes(repeated)
    await factors.RegenerateRecoveryCodes(factor_pb.RegenerateRecoveryCodesRequest())

    mails = await people.mails(somebody.email, SUBJECT, 3)
    told = sorted(mail.get_content().partition(" on ")[0] for mail in mails)
    assert told == [ADDED, CODES, CODES]
