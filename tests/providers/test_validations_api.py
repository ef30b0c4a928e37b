"""Whether keys still work, on demand and day by day: only the provider's own no makes one invalid."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from services.cli.demo.openai_server import Answer
from services.kit import faults
from services.kit.server import Runtime
from tests.fakes.openai_server import FakeOpenAI, Mode
from tests.patience import until
from tests.providers.conftest import AddProvider
from tests.providers.rounds import make_rounds
from tests.providers.test_keys_api import OPENAI, store, to_resolve
from tests.providers.test_rotations_api import materials, rotate
from tests.suite import Person
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import key_service_pb2 as pb
from triptych.providers.v1.key_pb2 import Key, KeyState
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.key_service_pb2_grpc import KeyServiceAsyncStub

NOBODYS = "keys of this prefix were never given out"


@pytest.fixture
async def provider(add_provider: AddProvider, fake: FakeOpenAI) -> Provider:
    return await add_provider(type=OPENAI, api_endpoint=fake.url)


async def validate(person: Person, key: Key) -> Key:
    return (await person.stub(KeyServiceStub).ValidateKey(pb.ValidateKeyRequest(key_id=key.id))).key


async def get(person: Person, key: Key) -> Key:
    return (await person.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=key.id))).key


async def make_due(superuser: Any, *keys: Key) -> None:
    ids = [uuid.UUID(key.id) for key in keys]
    await superuser.execute("UPDATE user_providers SET validate_due = now() WHERE id = ANY($1)", ids)


async def due(superuser: Any, key: Key) -> timedelta:
    at: datetime = await superuser.fetchval("SELECT validate_due FROM user_providers WHERE id = $1", key.id)
    return at - datetime.now(UTC)


async def alerts(superuser: Any, key: Key) -> int:
    found: int = await superuser.fetchval(
        "SELECT count(*) FROM outbox WHERE entity = $1 AND action = 'providers.key.invalidate'", f"key:{key.id}"
    )
    return found


async def test_a_key_that_works_is_seen_to_work(user: Person, provider: Provider, fake: FakeOpenAI) -> None:
    key = await store(user, provider)
    fake.requests.clear()
    seen = await validate(user, key)
    assert seen.state == KeyState.KEY_STATE_ACTIVE
    assert seen.validate_time.ToNanoseconds() > key.validate_time.ToNanoseconds()
    assert len(fake.requests) == 1


async def test_a_refused_key_is_invalid_until_its_provider_takes_it_again(
    user: Person, provider: Provider, fake: FakeOpenAI, experiments: "KeyServiceAsyncStub", superuser: Any
) -> None:
    key = await store(user, provider)
    usual, fake.prefix = fake.prefix, NOBODYS
    refused = await validate(user, key)
    assert refused.state == KeyState.KEY_STATE_INVALID
    assert refused.state_reason == "the provider refused it with status 401"
    assert refused.etag != key.etag
    assert await alerts(superuser, key) == 1
    with pytest.raises(faults.NotFound):
        await experiments.ResolveKey(to_resolve(user, provider))
    assert (await validate(user, key)).state == KeyState.KEY_STATE_INVALID
    assert await alerts(superuser, key) == 1  # nothing new
    fake.prefix = usual
    again = await validate(user, key)
    assert (again.state, again.state_reason) == (KeyState.KEY_STATE_ACTIVE, "")
    await experiments.ResolveKey(to_resolve(user, provider))


@pytest.mark.parametrize("mode", ["garbage", "broken", "busy", "redirect", "walled"])
async def test_a_provider_that_gives_no_judgement_condemns_nobody(
    user: Person, provider: Provider, fake: FakeOpenAI, experiments: "KeyServiceAsyncStub", mode: Mode
) -> None:
    key = await store(user, provider)
    fake.mode = mode
    with pytest.raises(faults.Unavailable) as caught:
        await validate(user, key)
    assert caught.value.reason == "PROVIDER_UNREACHABLE"
    assert (await get(user, key)).state == KeyState.KEY_STATE_ACTIVE
    await experiments.ResolveKey(to_resolve(user, provider))


@pytest.mark.parametrize(
    ("status", "code"), [(403, "unsupported_country_region_territory"), (401, "ip_not_authorized")]
)
async def test_a_refusal_of_the_place_that_we_are_at_condemns_no_key(  # noqa: PLR0917 - fixtures
    user: Person, provider: Provider, fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    key = await store(user, provider)
    refusal = Answer.error(status, "Not from there.", code=code)
    monkeypatch.setattr(fake, "_misbehaviour", lambda: refusal)
    with pytest.raises(faults.Unavailable) as caught:
        await validate(user, key)
    assert (caught.value.reason, caught.value.facts["problem"]) == ("PROVIDER_UNREACHABLE", f"status {status}")
    assert (await get(user, key)).state == KeyState.KEY_STATE_ACTIVE


async def test_the_round_asks_about_keys_whose_day_is_over_and_about_no_other(
    user: Person, provider: Provider, fake: FakeOpenAI, superuser: Any, runtime: Runtime
) -> None:
    asked, other = await store(user, provider), await store(user, provider)
    assert timedelta(hours=21) < await due(superuser, asked) < timedelta(hours=27)
    await make_due(superuser, asked)
    fake.requests.clear()
    registry = CollectorRegistry()
    async with make_rounds(runtime, registry) as rounds:
        await rounds.go()
    assert len(fake.requests) == 1
    assert timedelta(hours=21) < await due(superuser, asked) < timedelta(hours=27)
    assert (await get(user, asked)).validate_time != asked.validate_time
    assert (await get(user, other)).validate_time == other.validate_time
    assert registry.get_sample_value("triptych_key_validations_total", {"outcome": "accepted"}) == 1


async def test_the_round_makes_a_refused_key_invalid_and_says_so_once(
    user: Person, provider: Provider, fake: FakeOpenAI, superuser: Any, runtime: Runtime
) -> None:
    key = await store(user, provider)
    fake.prefix = NOBODYS
    for _ in range(2):
        await make_due(superuser, key)
        async with make_rounds(runtime) as rounds:
            await rounds.go()
    assert (await get(user, key)).state == KeyState.KEY_STATE_INVALID
    assert await alerts(superuser, key) == 1


async def test_the_round_comes_back_in_an_hour_when_nobody_judged(
    user: Person, provider: Provider, fake: FakeOpenAI, superuser: Any, runtime: Runtime
) -> None:
    key = await store(user, provider)
    await make_due(superuser, key)
    fake.mode = "broken"
    registry = CollectorRegistry()
    async with make_rounds(runtime, registry) as rounds:
        await rounds.go()
    assert (await get(user, key)).state == KeyState.KEY_STATE_ACTIVE
    assert timedelta(minutes=25) < await due(superuser, key) < timedelta(minutes=95)
    assert registry.get_sample_value("triptych_key_validations_total", {"outcome": "unjudged"}) == 1


async def test_two_rounds_at_once_ask_once(
    user: Person, provider: Provider, fake: FakeOpenAI, superuser: Any, runtime: Runtime
) -> None:
    keys = [await store(user, provider) for _ in range(4)]
    await make_due(superuser, *keys)
    fake.requests.clear()
    async with make_rounds(runtime) as one, make_rounds(runtime) as two:
        await asyncio.gather(one.go(), two.go())
    assert len(fake.requests) == 4


async def test_a_key_is_sent_to_no_host_but_its_own(
    user: Person, provider: Provider, fake: FakeOpenAI, superuser: Any, runtime: Runtime
) -> None:
    key = await store(user, provider)
    await superuser.execute("UPDATE providers SET destination_host = 'evil.example' WHERE id = $1", provider.id)
    await make_due(superuser, key)
    fake.requests.clear()
    async with make_rounds(runtime) as rounds:
        await rounds.go()
    with pytest.raises(faults.Unavailable):
        await validate(user, key)
    assert not fake.requests
    assert (await get(user, key)).state == KeyState.KEY_STATE_ACTIVE


async def test_a_key_that_was_replaced_ends_when_it_is_refused(
    user: Person, provider: Provider, fake: FakeOpenAI, superuser: Any
) -> None:
    old = await store(user, provider)
    await rotate(user, old)
    fake.prefix = NOBODYS
    assert (await validate(user, old)).state == KeyState.KEY_STATE_EXPIRED
    assert await materials(superuser, old) == (None, None)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await validate(user, old)
    assert (caught.value.reason, caught.value.facts["state"]) == ("KEY_NOT_CURRENT", "expired")


async def test_a_key_that_is_revoked_while_its_provider_thinks_stays_revoked(
    user: Person, provider: Provider, fake: FakeOpenAI, superuser: Any
) -> None:
    key = await store(user, provider)
    fake.mode = "slow"
    asking = asyncio.create_task(validate(user, key))
    await until(lambda: len(fake.requests) >= 2)
    await user.stub(KeyServiceStub).RevokeKey(pb.RevokeKeyRequest(key_id=key.id))
    fake.released.set()
    assert (await asking).state == KeyState.KEY_STATE_REVOKED
    assert await materials(superuser, key) == (None, None)


async def test_an_admin_may_ask_about_anybodys_key_and_others_about_their_own(
    user: Person, admin: Person, provider: Provider
) -> None:
    key = await store(user, provider)
    assert (await validate(admin, key)).id == key.id
    for stranger in (admin.colleague(Role.ROLE_USER), user.suite.person(Role.ROLE_ADMIN)):
        with pytest.raises(faults.NotFound) as caught:
            await validate(stranger, key)
        assert caught.value.reason == "KEY_NOT_FOUND"


async def test_asking_counts_among_the_attempts(user: Person, provider: Provider) -> None:
    key = await store(user, provider)
    for _ in range(9):
        await validate(user, key)
    with pytest.raises(faults.ResourceExhausted) as caught:
        await validate(user, key)
    assert caught.value.reason == "KEY_ATTEMPTS"


async def test_a_repeated_request_asks_once(user: Person, provider: Provider, fake: FakeOpenAI) -> None:
    key = await store(user, provider)
    fake.requests.clear()
    request = pb.ValidateKeyRequest(key_id=key.id, request_id=str(uuid.uuid4()))
    stub = user.stub(KeyServiceStub)
    assert await stub.ValidateKey(request) == await stub.ValidateKey(request)
    assert len(fake.requests) == 1
