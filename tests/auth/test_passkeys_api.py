"""Passkeys: registration, login as a second factor and alone, and what a browser must not get away with."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from services.kit import faults
from services.kit.settings import SettingsInvalid
from tests.auth.authenticators import RP_ID, Passkey, decode, encode
from tests.auth.holders import Holder, add_passkey, enroll
from tests.auth.people import PASSWORD, People, Somebody
from tests.suite import Suite
from triptych.auth.v1 import auth_service_pb2 as pb, factor_service_pb2 as factor_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.factor_pb2 import FactorKind
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub

Bend = Callable[[Passkey], dict[str, Any]]


@pytest.fixture
async def passkey(people: People, admin: Somebody) -> Passkey:
    """A registered passkey of the admin."""
    await admin.reauthenticate()
    made = Passkey()
    await add_passkey(admin, made)
    return made


async def options(people: People, ticket: str = "") -> str:
    """Begin a login."""
    return (await people.auth.BeginPasskeyLogin(pb.BeginPasskeyLoginRequest(login_ticket=ticket))).options_json


async def finish(people: People, credential: str, ticket: str = "") -> pb.FinishPasskeyLoginResponse:
    """End it."""
    request = pb.FinishPasskeyLoginRequest(credential_json=credential, login_ticket=ticket, device_name="browser")
    return await people.auth.FinishPasskeyLogin(request)


async def refused(people: People, credential: str, ticket: str = "") -> None:
    with pytest.raises(faults.Unauthenticated) as caught:
        await finish(people, credential, ticket)
    assert caught.value.reason == "PASSKEY_INVALID"


async def ticket(people: People, somebody: Somebody) -> str:
    answer = await people.auth.Login(pb.LoginRequest(email=somebody.email, password=PASSWORD))
    assert FactorKind.FACTOR_KIND_PASSKEY in answer.factors
    return answer.login_ticket


async def test_a_passkey_alone_logs_in_who_was_verified(people: People, admin: Somebody, passkey: Passkey) -> None:
    asked = json.loads(begun := await options(people))
    assert (asked["rpId"], asked["userVerification"], asked["allowCredentials"]) == (RP_ID, "required", [])
    done = await finish(people, passkey.use(begun))
    assert (done.user.id, done.tenant_id) == (admin.id, admin.tenant_id)
    mine = (await admin.stub(FactorServiceStub).GetFactors(factor_pb.GetFactorsRequest())).factors.passkeys
    assert [each.HasField("last_use_time") for each in mine] == [True]


async def test_a_passkey_is_the_second_factor_of_a_ticket(people: People, admin: Somebody, passkey: Passkey) -> None:
    given = await ticket(people, admin)
    asked = json.loads(begun := await options(people, given))
    assert [decode(each["id"]) for each in asked["allowCredentials"]] == [passkey.id]
    passkey.verified = False  # the password was shown already
    done = await finish(people, passkey.use(begun, handle=None), given)
    assert done.user.id == admin.id
    again = passkey.use(begun)
    await refused(people, again, given)
    with pytest.raises(faults.Unauthenticated):
        await options(people, given)


async def test_the_first_passkey_brings_recovery_codes(people: People, admin: Somebody) -> None:
    await admin.reauthenticate()
    made = await add_passkey(admin, Passkey())
    assert (len(made.recovery_codes), made.passkey.display_name) == (10, "a key")
    holder = Holder(admin, app=None, codes=list(made.recovery_codes))  # type: ignore[arg-type]
    await holder.complete(await holder.ticket(), holder.codes[0])


bent: dict[str, Bend] = {
    "wrong origin": lambda _: {"origin": "https://triptych.test.evil.example"},
    "plaintext origin": lambda _: {"origin": "http://triptych.test"},
    "within another page": lambda _: {"crossOrigin": True},
    "type of the other ceremony": lambda _: {"type": "webauthn.create"},
    "wrong relying party": lambda passkey: {"data": replace(passkey, rp_id="evil.example")._data()},
    "person not verified": lambda passkey: {"data": replace(passkey, verified=False)._data()},
    "nobody named": lambda _: {"handle": None},
    "somebody else named": lambda _: {"handle": bytes(16)},
    "no challenge of ours": lambda _: {"challenge": encode(bytes(32))},
    "no challenge": lambda _: {"challenge": ""},
    "truncated data": lambda passkey: {"data": passkey._data()[:36]},
    "data with more": lambda passkey: {"data": passkey._data() + b"more"},
}


@pytest.mark.parametrize("bend", bent.values(), ids=bent)
async def test_45_what_does_not_verify_is_refused(
    people: People, admin: Somebody, passkey: Passkey, bend: Bend
) -> None:
    begun = await options(people)
    await refused(people, passkey.use(begun, **bend(passkey)))
    async with people.database() as database:
        noted = await database.fetchval(
            "SELECT count(*) FROM audit_logs WHERE user_id = $1 AND action = 'auth.factor.refuse'", admin.id
        )
    assert noted == 1


async def test_45_a_challenge_is_good_once(people: People, passkey: Passkey) -> None:
    begun = await options(people)
    used = passkey.use(begun)
    await finish(people, used)
    await refused(people, used)
    await refused(people, passkey.use(begun))
    spoilt = await options(people)
    await refused(people, passkey.use(spoilt, origin="https://evil.example"))
    await refused(people, passkey.use(spoilt))  # a wrong answer spends it as well


async def test_45_a_challenge_is_good_for_five_minutes(people: People, passkey: Passkey) -> None:
    begun = await options(people)
    async with people.database() as database:
        await database.execute("UPDATE passkey_challenges SET expire_time = now()")
    await refused(people, passkey.use(begun))


async def test_45_twenty_uses_of_one_answer_at_once_make_one_session(people: People, passkey: Passkey) -> None:
    used = passkey.use(await options(people))

    async def attempt() -> str:
        try:
            await finish(people, used)
        except faults.Unauthenticated as fault:
            return fault.reason
        return ""

    found = Counter(await asyncio.gather(*(attempt() for _ in range(20))))
    assert found == {"": 1, "PASSKEY_INVALID": 19}


@pytest.mark.parametrize("count", [5, 4, 0])
async def test_45_a_count_that_has_not_risen_is_a_second_authenticator(
    people: People, passkey: Passkey, count: int
) -> None:
    passkey.count = 4
    await finish(people, passkey.use(await options(people)))  # says 5
    passkey.count = count - 1 if count else 0
    passkey.counts = bool(count)
    await refused(people, passkey.use(await options(people)))
    passkey.count, passkey.counts = 5, True
    await finish(people, passkey.use(await options(people)))


async def test_authenticators_that_count_nothing_are_taken(people: People, admin: Somebody) -> None:
    await admin.reauthenticate()
    await add_passkey(admin, made := Passkey(counts=False))
    for _ in range(2):
        await finish(people, made.use(await options(people)))


async def test_45_a_wrong_signature_is_refused(people: People, passkey: Passkey) -> None:
    answer = json.loads(passkey.use(await options(people)))
    answer["response"]["signature"] = encode(bytes(70))
    await refused(people, json.dumps(answer))
    stolen = Passkey(handle=passkey.handle)
    answer = json.loads(stolen.use(await options(people)))
    answer["id"] = answer["rawId"] = encode(passkey.id)  # another key under a known name
    await refused(people, json.dumps(answer))


async def test_45_a_challenge_is_for_its_ticket(people: People, admin: Somebody, passkey: Passkey) -> None:
    given = await ticket(people, admin)
    await refused(people, passkey.use(await options(people, given)))  # alone, though it was given for a ticket
    await refused(people, passkey.use(await options(people)), given)  # and the other way round
    other = await ticket(people, admin)
    await refused(people, passkey.use(await options(people, given)), other)
    await refused(people, passkey.use(await options(people, given)), "no ticket at all")
    await finish(people, passkey.use(await options(people, given)), given)


async def test_45_a_passkey_is_no_second_factor_of_somebody_else(
    people: People, admin: Somebody, passkey: Passkey
) -> None:
    mallory = await people.admin()
    await mallory.reauthenticate()
    await add_passkey(mallory, hers := Passkey())
    given = await ticket(people, admin)
    await refused(people, hers.use(await options(people, given)), given)
    await refused(people, hers.use(await options(people, given), handle=None), given)


async def test_who_may_not_log_in_does_not_with_a_passkey(people: People, admin: Somebody, passkey: Passkey) -> None:
    for column in ("disable_time", "delete_time"):
        async with people.database() as database:
            await database.execute(f"UPDATE users SET {column} = now() WHERE id = $1", admin.id)
        await refused(people, passkey.use(await options(people)))
        async with people.database() as database:
            await database.execute(f"UPDATE users SET {column} = NULL WHERE id = $1", admin.id)
    async with people.database() as database:
        await database.execute("UPDATE memberships SET remove_time = now() WHERE user_id = $1", admin.id)
    await refused(people, passkey.use(await options(people)))


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", "null", "[" * 16_000, '{"a":' * 3000, '"text"', "nothing", '{"rawId": 1, "response": {}}',
        '{"response": "text"}', '{"response": {"clientDataJSON": "e30"}, "rawId": ""}',
        '{"id": "é", "rawId": "é", "type": "public-key", "response": {"clientDataJSON": "é"}}',
        '{"response": {"clientDataJSON": "' + encode(b"\xff\xfe") + '"}, "rawId": "AA"}',
        '{"response": {"clientDataJSON": "' + encode(b"[" * 9000) + '"}, "rawId": "AA"}',
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
async def test_garbage_is_refused(people: People, admin: Somebody, text: str) -> None:
    await refused(people, text)
    await admin.reauthenticate()
    factors = admin.stub(FactorServiceStub)
    request = factor_pb.FinishPasskeyRegistrationRequest(credential_json=text, display_name="x")
    with pytest.raises(faults.Unauthenticated):
        await factors.FinishPasskeyRegistration(request)


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "https://evil.example"},
        {"type": "webauthn.get"},
        {"challenge": encode(bytes(32))},
        {"crossOrigin": True},
        {"fmt": "tpm"},
        {"fmt": "fido-u2f"},
        {"fmt": {"a": 1}},
        {"public": {}},
        {"public": {1: 2, 3: -7, -1: 1, -2: bytes(32), -3: bytes(32)}},
        {"public": {1: 3, 3: -257, -1: b"", -2: b""}},
        {"public": {1: 2, 3: -65535}},
        {"public": 7},
    ],
    ids=str,
)
async def test_45_a_registration_that_does_not_verify_is_refused(
    people: People, admin: Somebody, changes: dict[str, Any]
) -> None:
    await admin.reauthenticate()
    factors = admin.stub(FactorServiceStub)
    begun = (await factors.BeginPasskeyRegistration(factor_pb.BeginPasskeyRegistrationRequest())).options_json
    asked = json.loads(begun)
    assert asked["authenticatorSelection"]["userVerification"] == "required"
    assert asked["authenticatorSelection"]["residentKey"] == "required"
    passkey = Passkey()
    request = factor_pb.FinishPasskeyRegistrationRequest(
        credential_json=passkey.register(begun, **changes), display_name="x"
    )
    with pytest.raises(faults.Unauthenticated) as caught:
        await factors.FinishPasskeyRegistration(request)
    assert caught.value.reason == "PASSKEY_INVALID"
    request.credential_json = passkey.register(begun)  # the challenge is spent, unless it was not the one at stake
    if "challenge" not in changes:
        with pytest.raises(faults.Unauthenticated):
            await factors.FinishPasskeyRegistration(request)


async def test_45_a_person_is_verified_when_a_passkey_is_made(admin: Somebody) -> None:
    await admin.reauthenticate()
    for passkey in (Passkey(verified=False), Passkey(rp_id="evil.example"), Passkey(origin="https://evil.example")):
        with pytest.raises(faults.Unauthenticated):
            await add_passkey(admin, passkey)


async def test_a_registration_is_for_the_session_that_began_it(people: People, admin: Somebody) -> None:
    await admin.reauthenticate()
    elsewhere = await people.login(admin.email)
    begun = await admin.stub(FactorServiceStub).BeginPasskeyRegistration(factor_pb.BeginPasskeyRegistrationRequest())
    request = factor_pb.FinishPasskeyRegistrationRequest(
        credential_json=Passkey().register(begun.options_json), display_name="x"
    )
    with pytest.raises(faults.Unauthenticated):
        await elsewhere.stub(FactorServiceStub).FinishPasskeyRegistration(request)


async def test_a_passkey_is_registered_once_and_ten_are_enough(people: People, admin: Somebody) -> None:
    await admin.reauthenticate()
    first = Passkey()
    await add_passkey(admin, first)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await add_passkey(admin, first)
    assert caught.value.reason == "FACTOR_EXISTS"
    for _ in range(9):
        await add_passkey(admin, Passkey())
    with pytest.raises(faults.FailedPrecondition) as caught:
        await add_passkey(admin, Passkey())
    assert caught.value.reason == "FACTOR_LIMIT"


async def test_a_repeated_registration_answers_the_same_without_the_codes(admin: Somebody) -> None:
    await admin.reauthenticate()
    factors = admin.stub(FactorServiceStub)
    begin = factor_pb.BeginPasskeyRegistrationRequest(request_id="01890000-0000-7000-8000-000000000001")
    begun = await factors.BeginPasskeyRegistration(begin)
    assert not (await factors.BeginPasskeyRegistration(begin)).options_json
    request = factor_pb.FinishPasskeyRegistrationRequest(
        credential_json=Passkey().register(begun.options_json),
        display_name="x",
        request_id="01890000-0000-7000-8000-000000000002",
    )
    answers = await asyncio.gather(*(factors.FinishPasskeyRegistration(request) for _ in range(5)))
    assert len({answer.passkey.id for answer in answers}) == 1
    assert sorted(len(answer.recovery_codes) for answer in answers) == [0, 0, 0, 0, 10]


async def test_a_passkey_that_was_removed_is_unknown(people: People, admin: Somebody, passkey: Passkey) -> None:
    factors = admin.stub(FactorServiceStub)
    mine = (await factors.GetFactors(factor_pb.GetFactorsRequest())).factors.passkeys[0]
    other = await people.admin()
    await other.reauthenticate()
    request = factor_pb.DeletePasskeyRequest(passkey_id=mine.id)
    with pytest.raises(faults.NotFound) as caught:
        await other.stub(FactorServiceStub).DeletePasskey(request)
    assert caught.value.reason == "PASSKEY_NOT_FOUND"
    await factors.DeletePasskey(request)
    await refused(people, passkey.use(await options(people)))
    assert (await people.login(admin.email)).id == admin.id


async def test_a_passkey_begins_a_login_though_codes_are_exhausted(people: People, admin: Somebody) -> None:
    holder = await enroll(admin)
    await add_passkey(admin, passkey := Passkey())
    given = await holder.ticket()
    for _ in range(5):
        with pytest.raises(faults.Unauthenticated):
            await holder.complete(given, holder.app.wrong())
    with pytest.raises(faults.ResourceExhausted):
        await holder.complete(given, holder.codes[0])
    assert (await finish(people, passkey.use(await options(people, given)), given)).user.id == admin.id


async def test_there_are_no_passkeys_without_a_relying_party(people: People, suite: Suite, admin: Somebody) -> None:
    off = await suite.launch("auth", webauthn_rp_id="", webauthn_origins="")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{off.plaintext_port}") as channel:
            metadata = (("authorization", f"Bearer {admin.login.tokens.access_token}"),)
            factors, auth = FactorServiceStub(channel), AuthServiceStub(channel)
            finishing = factor_pb.FinishPasskeyRegistrationRequest(credential_json="{}", display_name="x")
            for call in (
                factors.BeginPasskeyRegistration(factor_pb.BeginPasskeyRegistrationRequest(), metadata=metadata),
                factors.FinishPasskeyRegistration(finishing, metadata=metadata),
                auth.BeginPasskeyLogin(pb.BeginPasskeyLoginRequest()),
                auth.FinishPasskeyLogin(pb.FinishPasskeyLoginRequest(credential_json="{}")),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert faults.from_error(caught.value, service="auth").reason == "PASSKEYS_OFF"
    finally:
        await off.stop()


@pytest.mark.parametrize(
    ("rp_id", "origins"),
    [
        ("", "https://a.example"),
        ("a.example", ""),
        ("a.example", "http://a.example"),
        ("a.example", "https://b.example"),
        ("a.example", "https://evila.example"),
        ("a.example", "https://a.example/path"),
        ("a.example", "https://a.example@b.example"),
        ("a.example", "https://a.example,https://b.example"),
    ],
)
def test_origins_belong_to_the_relying_party(suite: Suite, rp_id: str, origins: str) -> None:
    with pytest.raises(SettingsInvalid):
        suite.settings("auth", webauthn_rp_id=rp_id, webauthn_origins=origins)
    suite.settings("auth", webauthn_rp_id="localhost", webauthn_origins="http://localhost:3000")
