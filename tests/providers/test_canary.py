"""A key that is easy to recognise is stored, opened, refused and revoked; afterwards it is looked for everywhere."""

import logging
import pickle
import uuid
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from services.kit import faults
from services.providers.adapters.anthropic import Anthropic
from services.providers.adapters.openai import Compatible, OpenAI
from services.providers.secrets import Secret
from tests.fakes.openai_server import FakeOpenAI, Mode
from tests.providers.conftest import AddProvider
from tests.providers.test_keys_api import owner, to_resolve, to_store
from tests.suite import Person, Suite
from triptych.providers.v1 import key_service_pb2 as pb
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub

CANARY = "CaNaRyThatMustNotSing"
KEY = f"sk-demo-{CANARY}-tail"


async def _refusals(person: Person, add_provider: AddProvider, fake: FakeOpenAI) -> list[faults.Fault]:
    """Fail with the key in every way that there is."""
    stub = person.stub(KeyServiceStub)
    here = await add_provider(type="PROVIDER_TYPE_OPENAI", api_endpoint=fake.url)
    nowhere = await add_provider(type="PROVIDER_TYPE_OPENAI", api_endpoint="http://127.0.0.1:1")
    local = await add_provider()
    modes: list[tuple[Mode, pb.StoreKeyRequest]] = [
        (mode, to_store(here, KEY)) for mode in ("garbage", "broken", "busy", "redirect")
    ]
    modes += [
        ("well", to_store(here, f"refused-{KEY}")),
        ("well", to_store(here, KEY, label="x" * 65)),
        ("well", to_store(here, f"{KEY}\u00e9")),
        ("well", to_store(nowhere, KEY)),
        ("well", to_store(local, KEY)),
    ]
    found = []
    for mode, request in modes:
        fake.mode = mode
        with pytest.raises(faults.Fault) as caught:
            await stub.StoreKey(request)
        found.append(caught.value)
    return found


async def _in_valkey(store: Redis) -> list[bytes]:
    """Every key and value."""
    read: dict[Any, Any] = {
        b"string": store.get,
        b"hash": store.hgetall,
        b"zset": partial(store.zrange, start=0, end=-1),
    }
    keys: list[Any] = [key async for key in store.scan_iter("*")]
    return keys + [repr(await read[await store.type(key)](key)).encode() for key in keys]


async def _in_database(superuser: Any) -> list[str]:
    """Every row of the schema as text; bytea is written in hexadecimal."""
    tables = await superuser.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'providers'")
    assert {"user_providers", "requests", "outbox"} <= {table["tablename"] for table in tables}
    rows = []
    for table in tables:
        rows += await superuser.fetch(f'SELECT t::text AS row FROM providers."{table["tablename"]}" t')
    return [row["row"] for row in rows]


async def test_the_canary_is_nowhere_but_in_the_one_answer_that_asks_for_it(  # noqa: PLR0917 - fixtures
    user: Person,
    admin: Person,
    add_provider: AddProvider,
    fake: FakeOpenAI,
    suite: Suite,
    superuser: Any,
    store: Redis,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    provider = await add_provider(type="PROVIDER_TYPE_OPENAI", api_endpoint=fake.url)
    stub, experiments = user.stub(KeyServiceStub), (await suite.service("experiments", user)).stub(KeyServiceStub)
    answers: list[Any] = [await stub.StoreKey(to_store(provider, KEY, request_id=str(uuid.uuid4())))]
    key_id = answers[0].key.id
    opened = await experiments.ResolveKey(to_resolve(user, provider))
    assert opened.api_key == KEY
    found = await _refusals(admin, add_provider, fake)
    fake.mode = "well"
    with pytest.raises(faults.AlreadyExists) as again:
        await stub.StoreKey(to_store(provider, KEY))
    found.append(again.value)
    await superuser.execute("UPDATE user_providers SET encrypted_dek = 'vault:v1:x' WHERE id = $1", key_id)
    other = (await suite.launch("providers", allow_loopback_endpoints=True), suite.runtimes["providers"])
    suite.runtimes["providers"] = other[0]
    cold = (await suite.service("production", user)).stub(KeyServiceStub)
    suite.runtimes["providers"] = other[1]
    with pytest.raises(faults.Unavailable) as damaged:
        await cold.ResolveKey(to_resolve(user, provider))
    found.append(damaged.value)
    await other[0].stop()
    answers.append(await stub.GetKey(pb.GetKeyRequest(key_id=key_id)))
    answers.append(await stub.ListKeys(pb.ListKeysRequest()))
    database = await _in_database(superuser)
    answers.append(await stub.RevokeKey(pb.RevokeKeyRequest(key_id=key_id)))
    database += await _in_database(superuser)
    output = capfd.readouterr()
    assert "KeyService/ResolveKey" in output.out  # the log is there, and it is this one
    texts = [output.out, output.err, caplog.text, *database]
    texts += [repr(answer) for answer in answers]
    texts += [f"{fault!r} {fault} {fault.facts} {fault.violations} {fault.status()!r}" for fault in found]
    texts += [pickle.dumps((fault.text, fault.facts)).decode("latin-1") for fault in found]
    texts += [item.decode("latin-1") for item in await _in_valkey(store)]
    for form in (CANARY, CANARY.encode().hex(), KEY.encode().hex()):
        assert not [text for text in texts if form in text]
    assert owner(user).id in "".join(database)  # the dump holds what was done


@pytest.mark.parametrize("adapter", [OpenAI(), Compatible(), Anthropic()])
def test_a_probe_does_not_show_its_key(adapter: OpenAI | Compatible | Anthropic) -> None:
    probe = adapter.probe(base="", model="m", key=Secret(KEY))
    assert any(CANARY in value for value in probe.headers.values())
    assert CANARY not in repr(probe)
