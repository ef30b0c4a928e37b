"""ResolveKey when many ask at once: each gets their own answer, each use is recorded, and nobody waits for a lock."""

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from services.kit import faults
from services.kit.server import Runtime
from services.providers.uses import Uses
from tests.fakes.openai_server import FakeOpenAI
from tests.providers.conftest import AddProvider
from tests.providers.rounds import make_rounds
from tests.providers.test_keys_api import OPENAI, secret, store, to_resolve
from tests.suite import Person, Suite
from triptych.providers.v1 import key_service_pb2 as pb
from triptych.providers.v1.key_pb2 import Key
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.key_service_pb2_grpc import KeyServiceAsyncStub


@pytest.fixture
async def provider(add_provider: AddProvider, fake: FakeOpenAI) -> Provider:
    return await add_provider(type=OPENAI, api_endpoint=fake.url)


async def recorded(superuser: Any, key: Key) -> list[Any]:
    rows: list[Any] = await superuser.fetch(
        "SELECT correlation_id, actor_id, payload FROM outbox WHERE entity = $1 AND action = 'providers.key.resolve'",
        f"key:{key.id}",
    )
    return rows


async def test_of_many_at_once_each_gets_their_own_answer_and_an_event_of_their_own(  # noqa: PLR0917 - fixtures
    user: Person,
    admin: Person,
    provider: Provider,
    experiments: "KeyServiceAsyncStub",
    superuser: Any,
    suite: Suite,
) -> None:
    values = {person.id: secret() for person in (user, admin)}
    keys = {person.id: await store(person, provider, values[person.id]) for person in (user, admin)}
    production = (await suite.service("production", admin)).stub(KeyServiceStub)
    missing = to_resolve(user, provider, "evil.example")

    async def ask(number: int) -> tuple[str, str]:
        person, stub = (user, experiments) if number % 2 else (admin, production)
        metadata = (("x-request-id", f"ask-{number}"),)
        return person.id, (await stub.ResolveKey(to_resolve(person, provider), metadata=metadata)).api_key

    wrong = [experiments.ResolveKey(missing) for _ in range(20)]
    asked = await asyncio.gather(*(ask(number) for number in range(100)), *wrong, return_exceptions=True)
    assert {answer for answer in asked if isinstance(answer, tuple)} == set(values.items())
    failed = [answer for answer in asked if isinstance(answer, BaseException)]
    assert [getattr(fault, "reason", fault) for fault in failed] == ["KEY_NOT_FOUND"] * 20
    for person, odd, service in ((user, 1, "experiments"), (admin, 0, "production")):
        rows = await recorded(superuser, keys[person.id])
        assert sorted(row["correlation_id"] for row in rows) == sorted(f"ask-{n}" for n in range(odd, 100, 2))
        assert {row["actor_id"] for row in rows} == {person.id}
        assert {json.loads(row["payload"])["service"] for row in rows} == {service}


async def test_one_bad_request_among_many_harms_only_itself(
    user: Person, provider: Provider, experiments: "KeyServiceAsyncStub"
) -> None:
    await store(user, provider)
    bad = to_resolve(user, provider, "\0evil")
    good = to_resolve(user, provider)
    answers = await asyncio.gather(
        *(experiments.ResolveKey(bad if number == 7 else good) for number in range(16)), return_exceptions=True
    )
    assert [isinstance(answer, faults.NotFound) for answer in answers] == [number == 7 for number in range(16)]


async def test_a_key_of_the_same_owner_can_be_named_and_no_other(
    user: Person, admin: Person, provider: Provider, experiments: "KeyServiceAsyncStub"
) -> None:
    values = [secret(), secret()]
    keys = [await store(user, provider, value) for value in values]
    theirs = await store(admin, provider)
    request = to_resolve(user, provider)
    for key, value in zip(keys, values, strict=True):
        request.key_id = key.id
        assert (await experiments.ResolveKey(request)).api_key == value
    request.key_id = theirs.id
    with pytest.raises(faults.NotFound) as caught:
        await experiments.ResolveKey(request)
    assert caught.value.reason == "KEY_NOT_FOUND"


async def test_uses_are_counted_to_the_minute_and_all_of_them_when_the_service_stops(
    user: Person, provider: Provider, suite: Suite, superuser: Any
) -> None:
    key = await store(user, provider)
    async with suite.instead("providers", allow_loopback_endpoints=True) as lonely:
        experiments = (await suite.service("experiments", user)).stub(KeyServiceStub)
    for _ in range(7):
        await experiments.ResolveKey(to_resolve(user, provider))
    await lonely.stop()
    shown = (await user.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=key.id))).key
    assert shown.use_count == 7
    assert shown.last_use_time.seconds % 60 == 0 or shown.last_use_time == shown.create_time
    assert shown.etag == key.etag
    assert len(await recorded(superuser, key)) == 7


async def test_a_locked_row_keeps_nobody_waiting(
    user: Person, provider: Provider, experiments: "KeyServiceAsyncStub", superuser: Any, runtime: Runtime
) -> None:
    key = await store(user, provider)
    async with superuser.transaction():
        await superuser.execute("SELECT 1 FROM user_providers WHERE id = $1 FOR UPDATE", key.id)
        await experiments.ResolveKey(to_resolve(user, provider))  # whoever waited for the lock would wait for ever
        uses = Uses()
        uses.add(user.tenant_id, {uuid.UUID(key.id): 3})
        await uses.flush(runtime.db)
    await uses.flush(runtime.db)
    shown = (await user.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=key.id))).key
    assert shown.use_count >= 3


async def test_a_prefix_says_whose_key_it_is_and_no_more(user: Person, provider: Provider) -> None:
    key = await store(user, provider)
    assert key.prefix == "sk-demo-"
    assert (await store(user, provider, "sk-demo-short")).prefix == ""


async def test_what_comes_from_a_round_is_nothing_new_when_nothing_is_due(runtime: Runtime) -> None:
    async with make_rounds(runtime) as rounds:
        await rounds.go()
        await rounds.go()
