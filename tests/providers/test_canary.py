"""A key that is easy to recognise is stored, opened, refused and revoked; afterwards it is looked for everywhere."""

import asyncio
import base64
import importlib
import logging
import pickle
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from redis.asyncio import Redis

from services.kit import faults, log, telemetry
from services.kit.server import Runtime
from services.providers import __main__ as main, envelopes
from services.providers.adapters.anthropic import Anthropic
from services.providers.adapters.openai import Compatible, OpenAI
from services.providers.secrets import Secret
from tests.fakes.model_servers import FakeModels
from tests.fakes.openai_server import FakeOpenAI, Mode
from tests.patience import output, until, within
from tests.providers.conftest import AddProvider
from tests.providers.test_keys_api import owner, to_resolve, to_store
from tests.suite import Person, Suite
from triptych.providers.v1 import key_service_pb2 as pb, model_pb2, model_service_pb2
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.model_service_pb2_grpc import ModelServiceStub
from triptych.providers.v1.provider_pb2 import Provider

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
    kinds = [await store.type(key) for key in keys]
    live = [(key, kind) for key, kind in zip(keys, kinds, strict=True) if kind != b"none"]  # the others just expired
    return keys + [repr(await read[kind](key)).encode() for key, kind in live]


async def _in_database(superuser: Any) -> list[str]:
    """Every row of the schema as text; bytea is written in hexadecimal."""
    tables = await superuser.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'providers'")
    assert {"user_providers", "requests", "outbox"} <= {table["tablename"] for table in tables}
    rows = []
    for table in tables:
        rows += await superuser.fetch(f'SELECT t::text AS row FROM providers."{table["tablename"]}" t')
    return [row["row"] for row in rows]


class Spans(SpanExporter):
    """Keeps what would be sent to a collector, as text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep them."""
        self.texts += [span.to_json() for span in spans]
        return SpanExportResult.SUCCESS


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Traces of everything that runs meanwhile."""
    kept, provider = Spans(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    yield kept
    provider.shutdown()


async def _call_all(person: Person, services: list[str]) -> list[Any]:
    """Call each method of the context once, with next to nothing: what matters here is what it leaves behind."""
    answers: list[Any] = []
    for name in services:
        service = descriptor_pool.Default().FindServiceByName(name)
        module = importlib.import_module(service.file.name.replace("/", ".").replace(".proto", "_pb2_grpc"))
        stub = person.stub(getattr(module, f"{service.name}Stub"))
        for method in service.methods:
            request = GetMessageClass(method.input_type)()
            try:
                if method.server_streaming:
                    answers += [item async for item in getattr(stub, method.name)(request, timeout=0.3)]
                else:
                    answers.append(await getattr(stub, method.name)(request))
            except (faults.Fault, grpc.aio.AioRpcError) as error:
                answers.append(error)
    return answers


async def _lines(services: list[str], capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Give what was written, once every method has left its line: a stream that is cut off ends a moment later."""
    paths = {
        f"/{name}/{method.name}"
        for name in services
        for method in descriptor_pool.Default().FindServiceByName(name).methods
    }
    written: list[str] = []

    def all_there() -> bool:
        log.flush()
        output = capfd.readouterr()
        written.extend([output.out, output.err])
        return all(any(path in text for text in written) for path in paths)

    await until(all_there)
    return written


async def _dek(runtime: Runtime, superuser: Any, key_id: str) -> bytes:
    row = await superuser.fetchrow("SELECT * FROM user_providers WHERE id = $1", key_id)
    return bytes((await envelopes.unwrap(runtime.vault, row)).reveal())


async def _talk(person: Person, provider: Provider) -> list[Any]:
    """Have a model asked with the key, in both ways."""
    message = model_pb2.ChatMessage(role=model_pb2.CHAT_ROLE_USER, content="anything")
    given: Any = {"provider_id": provider.id, "operation": "review", "messages": [message]}
    stub = person.stub(ModelServiceStub)
    answers: list[Any] = [await stub.InvokeModel(model_service_pb2.InvokeModelRequest(**given))]
    streamed = stub.StreamModel(model_service_pb2.StreamModelRequest(**given))
    return answers + [item async for item in streamed]


async def test_the_canary_is_nowhere_but_in_the_one_answer_that_asks_for_it(  # noqa: PLR0917 - fixtures
    user: Person,
    admin: Person,
    add_provider: AddProvider,
    fake: FakeOpenAI,
    suite: Suite,
    runtime: Runtime,
    superuser: Any,
    store: Redis,
    spans: Spans,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    provider = await add_provider(type="PROVIDER_TYPE_OPENAI", api_endpoint=fake.url)
    stub, experiments = user.stub(KeyServiceStub), (await suite.service("experiments", user)).stub(KeyServiceStub)
    answers: list[Any] = [await stub.StoreKey(to_store(provider, KEY, request_id=str(uuid.uuid4())))]
    first = answers[0].key.id
    deks = [await _dek(runtime, superuser, first)]
    assert (await experiments.ResolveKey(to_resolve(user, provider))).api_key == KEY
    answers.append(await stub.ValidateKey(pb.ValidateKeyRequest(key_id=first)))
    async with FakeModels("openai") as models:
        asked = await add_provider(type="PROVIDER_TYPE_OPENAI", api_endpoint=models.url)
        answers.append(await stub.StoreKey(to_store(asked, KEY)))
        deks.append(await _dek(runtime, superuser, answers[-1].key.id))
        answers += await _talk(user, asked)
    answers.append(await stub.RotateKey(pb.RotateKeyRequest(key_id=first, api_key=f"{KEY}-2")))
    key_id = answers[-1].key.id
    deks.append(await _dek(runtime, superuser, key_id))
    found = await _refusals(admin, add_provider, fake)
    fake.mode = "well"
    for again in (stub.StoreKey(to_store(provider, KEY)), stub.StoreKey(to_store(provider, f"{KEY}-2"))):
        with pytest.raises(faults.AlreadyExists) as exists:
            await again
        found.append(exists.value)
    database = await _in_database(superuser)
    await superuser.execute("UPDATE user_providers SET encrypted_dek = 'vault:v1:x' WHERE id = $1", key_id)
    async with suite.instead("providers", allow_loopback_endpoints=True):
        cold = (await suite.service("production", user)).stub(KeyServiceStub)
    with pytest.raises(faults.Unavailable) as damaged:
        await cold.ResolveKey(to_resolve(user, provider))
    found.append(damaged.value)
    answers.append(await stub.GetKey(pb.GetKeyRequest(key_id=key_id)))
    answers.append(await stub.ListKeys(pb.ListKeysRequest()))
    services = [name for name, _ in runtime._adders]
    answers += await _call_all(admin, services)
    database += await _in_database(superuser)
    answers.append(await stub.RevokeKey(pb.RevokeKeyRequest(key_id=key_id)))
    database += await _in_database(superuser)
    written = await _lines(services, capfd)
    assert any("KeyService/ResolveKey" in text for text in spans.texts)
    texts = [*written, caplog.text, *database, *spans.texts]
    texts += [repr(answer) for answer in answers]
    texts += [f"{fault!r} {fault} {fault.facts} {fault.violations} {fault.status()!r}" for fault in found]
    texts += [pickle.dumps((fault.text, fault.facts)).decode("latin-1") for fault in found]
    texts += [item.decode("latin-1") for item in await _in_valkey(store)]
    forms = [CANARY, CANARY.encode().hex(), base64.b64encode(KEY.encode()).decode()[:20]]
    for dek in deks:
        assert len(dek) == 32
        forms += [dek.hex(), base64.b64encode(dek).decode(), dek.decode("latin-1"), repr(dek)[2:-1]]
    for form in forms:
        assert not [text[:200] for text in texts if form in text]
    assert owner(user).id in "".join(database)  # the dump holds what was done


async def test_the_process_leaves_no_core() -> None:
    script = (
        "from services.providers import dumps; dumps.forbid(); import sys; print('ready', flush=True); sys.stdin.read()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await within(process.stdout.readline()) == b"ready\n"
        limits = await asyncio.to_thread(Path(f"/proc/{process.pid}/limits").read_text)
    finally:
        await output(process, b"")
    assert re.search(r"Max core file size\s+0\s+0\s", limits)


def test_the_service_takes_that_right_away_before_it_serves() -> None:
    source = Path(main.__file__).read_text()
    assert source.index("dumps.forbid()") < source.index("serve(SETTINGS, wire)")


@pytest.mark.parametrize("adapter", [OpenAI(), Compatible(), Anthropic()])
def test_a_probe_does_not_show_its_key(adapter: OpenAI | Compatible | Anthropic) -> None:
    probe = adapter.probe(base="", model="m", key=Secret(KEY))
    assert any(CANARY in value for value in probe.headers.values())
    assert CANARY not in repr(probe)
