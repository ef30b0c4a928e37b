"""ModelService over the wire: a key that stays inside, retries, fallbacks, circuits, and every cent accounted for."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from services.kit import faults
from services.kit.server import Runtime
from services.providers import tries
from tests.fakes.model_servers import WORDS, FakeModels
from tests.providers.conftest import AddProvider
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    key_service_pb2 as key_pb,
    model_pb2,
    model_service_pb2 as pb,
    quota_service_pb2 as quota_pb,
    tenant_ai_config_service_pb2 as config_pb,
)
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.model_service_pb2_grpc import ModelServiceStub
from triptych.providers.v1.provider_pb2 import Provider, ProviderType
from triptych.providers.v1.quota_pb2 import Quota
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.tenant_ai_config_pb2 import TenantAiConfig
from triptych.providers.v1.tenant_ai_config_service_pb2_grpc import TenantAiConfigServiceStub

KEY = "sk-demo-0123456789abcdef"
TEXT = " ".join(WORDS)
SAID = "a prompt that nobody else may read"
AddModel = Callable[..., Awaitable[Provider]]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other quickly."""
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.02)


@pytest.fixture
async def server() -> AsyncIterator[FakeModels]:
    async with FakeModels("openai") as running:
        yield running
        running.released.set()


@pytest.fixture
async def other() -> AsyncIterator[FakeModels]:
    async with FakeModels("anthropic") as running:
        yield running
        running.released.set()


@pytest.fixture
def add_model(add_provider: AddProvider, user: Person) -> AddModel:
    """Add a provider at a server, with a key of the user's unless they have none."""

    async def add(at: FakeModels, *, key: str = KEY, person: Person | None = None, **changes: Any) -> Provider:
        kind = {"openai": ProviderType.PROVIDER_TYPE_OPENAI, "anthropic": ProviderType.PROVIDER_TYPE_ANTHROPIC}
        provider = await add_provider(type=kind[at.wire], api_endpoint=at.url, **({"max_tokens": 100} | changes))
        if key:
            before, at.always = at.always, "well"
            request = key_pb.StoreKeyRequest(provider_id=provider.id, label=f"k-{uuid.uuid4()}", api_key=key)
            await (person or user).stub(KeyServiceStub).StoreKey(request)
            at.always = before
        at.requests.clear()
        return provider

    return add


@pytest.fixture
async def model(add_model: AddModel, server: FakeModels) -> Provider:
    return await add_model(server)


def asking(provider: Provider, kind: Any = pb.InvokeModelRequest, **changes: Any) -> Any:
    message = model_pb2.ChatMessage(role=model_pb2.CHAT_ROLE_USER, content=SAID)
    return kind(**({"provider_id": provider.id, "operation": "review", "messages": [message]} | changes))


async def invoke(person: Person, provider: Provider, **changes: Any) -> pb.InvokeModelResponse:
    return await person.stub(ModelServiceStub).InvokeModel(asking(provider, **changes))


async def stream(person: Person, provider: Provider, **changes: Any) -> tuple[list[str], model_pb2.Invocation]:
    call = person.stub(ModelServiceStub).StreamModel(asking(provider, pb.StreamModelRequest, **changes))
    messages = [message async for message in call]
    return [message.text for message in messages[:-1]], messages[-1].invocation


async def streaming_fault(person: Person, provider: Provider, **changes: Any) -> faults.Fault:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(person, provider, **changes)
    return faults.from_error(caught.value, service="providers")


async def windows(person: Person) -> dict[str, tuple[str, str]]:
    answer = await person.stub(QuotaServiceStub).GetQuota(quota_pb.GetQuotaRequest())
    return {window.name: (window.committed, window.held) for window in answer.windows}


async def settled(person: Person) -> tuple[str, str]:
    """Requests of the day and cost, once nothing is held any more."""
    async with asyncio.timeout(10):
        while (now := await windows(person))["daily_requests"][1] != "0":
            await asyncio.sleep(0.02)
    return now["daily_requests"][0], now["daily_cost_usd"][0]


async def allow(admin: Person, **changes: Any) -> None:
    request = config_pb.UpdateTenantAiConfigRequest(config=TenantAiConfig(**changes))
    await admin.stub(TenantAiConfigServiceStub).UpdateTenantAiConfig(request)


async def test_an_answer_is_charged_at_what_the_provider_counted(user: Person, model: Provider) -> None:
    answer = await invoke(user, model)
    given = answer.invocation
    assert answer.text == TEXT
    assert (given.input_tokens, given.output_tokens, given.cost_usd) == (7, 4, "0.015")  # 7 at $1, 4 at $2 a thousand
    assert (given.finish_reason, given.attempts, given.estimated) == (model_pb2.FINISH_REASON_STOP, 1, False)
    assert (given.key_source, given.model_name) == (model_pb2.KEY_SOURCE_OWN, "reviewer")
    assert await settled(user) == ("1", "0.015")


async def test_a_stream_gives_pieces_and_then_what_it_came_to(user: Person, model: Provider) -> None:
    pieces, given = await stream(user, model)
    assert ("".join(pieces), len(pieces)) == (TEXT, 4)
    assert (given.cost_usd, given.finish_reason) == ("0.015", model_pb2.FINISH_REASON_STOP)
    assert await settled(user) == ("1", "0.015")


async def test_anthropic_is_asked_in_its_own_words(user: Person, add_model: AddModel, other: FakeModels) -> None:
    model = await add_model(other)
    assert (await invoke(user, model)).text == TEXT
    assert (await stream(user, model))[0] == ["Four", " words", " come", " here."]
    assert other.requests[-1].headers["x-api-key"] == KEY


async def test_the_key_and_the_words_stay_where_they_belong(
    user: Person, model: Provider, server: FakeModels, superuser: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    await invoke(user, model, request_id=str(uuid.uuid4()))
    server.always = "broken"
    with pytest.raises(faults.Unavailable) as caught:
        await invoke(user, model)
    dump = str(caught.value) + "".join(capfd.readouterr())
    tables = await superuser.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'providers'")
    for table in tables:  # bytes are shown in hexadecimal
        rows = await superuser.fetch(f"SELECT t::text AS line FROM {table['tablename']} t")
        dump += "".join(row["line"] for row in rows)
    for secret in (KEY, SAID, TEXT):
        assert secret not in dump
        assert secret.encode().hex() not in dump


async def test_every_call_leaves_its_events(user: Person, model: Provider, superuser: Any) -> None:
    given = (await invoke(user, model)).invocation
    rows = await superuser.fetch(
        "SELECT action FROM outbox WHERE entity = $1 ORDER BY occur_time", f"reservation:{given.reservation_id}"
    )
    assert [row["action"] for row in rows] == [
        "providers.quota.reserve", "providers.quota.commit", "providers.model.invoke",
    ]  # fmt: skip
    opened = "SELECT count(*) FROM outbox WHERE action = 'providers.key.resolve' AND actor_id = $1"
    assert await superuser.fetchval(opened, user.id) == 1


@pytest.mark.parametrize("mode", ["broken", "overloaded", "drop", "busy"])
async def test_what_passes_is_tried_again(user: Person, model: Provider, server: FakeModels, mode: str) -> None:
    server.script.extend([mode, mode])
    assert (await invoke(user, model)).invocation.attempts == 3
    server.script.extend([mode, mode])
    assert (await stream(user, model))[1].attempts == 3
    assert await settled(user) == ("2", "0.03")


async def test_retry_after_is_kept(user: Person, model: Provider, server: FakeModels) -> None:
    server.script.append("busy")
    began = asyncio.get_running_loop().time()
    await invoke(user, model)
    assert asyncio.get_running_loop().time() - began >= 1.0


@pytest.mark.parametrize(
    ("mode", "reason", "tries"),
    [
        ("broken", "MODEL_UNAVAILABLE", 3), ("garbage", "MODEL_UNAVAILABLE", 1), ("deep", "MODEL_UNAVAILABLE", 1),
        ("huge", "MODEL_UNAVAILABLE", 1), ("refused", "REQUEST_REFUSED", 1), ("unpaid", "PROVIDER_UNPAID", 1),
        ("empty_account", "PROVIDER_UNPAID", 1), ("forbidden", "KEY_REFUSED", 1), ("busy_for_long", "PROVIDER_BUSY", 1),
    ],
)  # fmt: skip
async def test_a_failure_has_its_reason_and_costs_nothing(  # noqa: PLR0917 - fixtures
    user: Person, model: Provider, server: FakeModels, mode: str, reason: str, tries: int
) -> None:
    server.always = mode
    with pytest.raises(faults.Fault) as caught:
        await user.stub(ModelServiceStub).InvokeModel(asking(model), timeout=8)
    assert (caught.value.reason, len(server.requests)) == (reason, tries)
    if mode == "busy_for_long":
        assert caught.value.retry_after is not None
        assert caught.value.retry_after.total_seconds() == 3000
    assert await settled(user) == ("0", "0")
    fault = await streaming_fault(user, model) if tries == 1 and mode != "busy_for_long" else caught.value
    assert fault.reason == reason
    assert await settled(user) == ("0", "0")
    keys = await user.stub(KeyServiceStub).ListKeys(key_pb.ListKeysRequest())
    assert keys.keys[0].state == 1  # nobody condemned it but, at most, the next validation


async def test_a_stream_that_breaks_off_is_charged_for_what_came(
    user: Person, model: Provider, server: FakeModels
) -> None:
    server.always = "cut"
    fault = await streaming_fault(user, model)
    assert (fault.reason, fault.facts["problem"]) == ("MODEL_UNAVAILABLE", "broken off")
    requests, cost = await settled(user)
    assert (requests, float(cost) > 0) == ("1", True)
    assert len(server.requests) == 1


async def test_who_hangs_up_before_a_word_pays_nothing(user: Person, model: Provider, server: FakeModels) -> None:
    server.always = "slow"
    stub = user.stub(ModelServiceStub)
    for method, kind in ((stub.InvokeModel, pb.InvokeModelRequest), (stub.StreamModel, pb.StreamModelRequest)):
        begun, ask = len(server.requests), method(asking(model, kind))
        async with asyncio.timeout(10):
            task = asyncio.ensure_future(ask.read() if hasattr(ask, "read") else ask)
            while len(server.requests) == begun:
                await asyncio.sleep(0.02)
            ask.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or task.exception()
        assert await settled(user) == ("0", "0")


async def test_who_hangs_up_in_the_middle_pays_for_what_came(user: Person, model: Provider, server: FakeModels) -> None:
    server.always = "stall"
    call = user.stub(ModelServiceStub).StreamModel(asking(model, pb.StreamModelRequest))
    begun: list[Any] = [await call.read() for _ in range(2)]
    assert [message.text for message in begun] == ["Four", " words"]
    call.cancel()
    requests, cost = await settled(user)
    assert (requests, float(cost) > 0) == ("1", True)


async def test_a_deadline_is_kept_and_the_hold_goes(user: Person, model: Provider, server: FakeModels) -> None:
    server.always = "slow"
    began = asyncio.get_running_loop().time()
    with pytest.raises(faults.Fault):
        await user.stub(ModelServiceStub).InvokeModel(asking(model), timeout=1.5)
    assert asyncio.get_running_loop().time() - began < 3
    assert await settled(user) == ("0", "0")


async def test_a_request_id_is_charged_once_and_its_text_is_not_kept(user: Person, model: Provider) -> None:
    request_id = str(uuid.uuid4())
    first = await invoke(user, model, request_id=request_id)
    again = await invoke(user, model, request_id=request_id)
    assert (again.text, again.invocation) == ("", first.invocation)
    with pytest.raises(faults.InvalidArgument) as caught:
        await invoke(user, model, request_id=request_id, operation="vision")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await settled(user) == ("1", "0.015")


async def test_the_same_request_at_once_asks_the_provider_once(
    user: Person, model: Provider, server: FakeModels
) -> None:
    server.always = "slow"
    request_id = str(uuid.uuid4())
    first = asyncio.ensure_future(invoke(user, model, request_id=request_id))
    async with asyncio.timeout(10):
        while not server.requests:
            await asyncio.sleep(0.02)
    with pytest.raises(faults.Aborted) as caught:
        await invoke(user, model, request_id=request_id)
    assert caught.value.reason == "INVOCATION_RUNNING"
    server.released.set()
    assert (await invoke(user, model, request_id=request_id) if not (await first).text else await first).text == TEXT
    assert len(server.requests) == 1
    assert await settled(user) == ("1", "0.015")


async def test_after_a_failure_the_request_id_is_free(user: Person, model: Provider, server: FakeModels) -> None:
    request_id = str(uuid.uuid4())
    server.script.append("garbage")
    with pytest.raises(faults.Unavailable):
        await invoke(user, model, request_id=request_id)
    assert (await invoke(user, model, request_id=request_id)).text == TEXT


async def test_a_key_that_became_invalid_is_said_to_be_so_and_not_to_be_missing(  # noqa: PLR0917 - fixtures
    user: Person, model: Provider, server: FakeModels, superuser: Any, add_model: AddModel, other: FakeModels
) -> None:
    reason = "the provider refused it with status 401"
    key_id = await superuser.fetchval(
        "UPDATE user_providers SET state = 'invalid', state_reason = $2 WHERE provider_id = $1 RETURNING id::text",
        model.id,
        reason,
    )
    with pytest.raises(faults.FailedPrecondition) as caught:
        await invoke(user, model)
    told = caught.value
    assert (told.reason, told.facts) == ("KEY_REFUSED", {"key_id": key_id, "state": "invalid", "state_reason": reason})
    assert all(word in told.text for word in (reason, "ValidateKey", "RotateKey"))
    assert (await streaming_fault(user, model)).reason == "KEY_REFUSED"
    with pytest.raises(faults.NotFound) as others:
        await invoke(user.colleague(Role.ROLE_ADMIN), model)  # not theirs, and none of their business
    assert others.value.reason == "KEY_NOT_FOUND"
    assert not server.requests
    spare = await add_model(other)
    answer = await invoke(user, model, fallback=model_pb2.Fallback(provider_ids=[spare.id]))
    assert answer.invocation.provider_id == spare.id
    await superuser.execute("UPDATE user_providers SET expire_time = now() WHERE id = $1", key_id)
    with pytest.raises(faults.NotFound) as over:
        await invoke(user, model)
    assert over.value.reason == "KEY_NOT_FOUND"


async def test_without_a_key_there_is_no_call_unless_a_fallback_is_asked_for(
    admin: Person, user: Person, add_model: AddModel, server: FakeModels, other: FakeModels
) -> None:
    bare, spare = await add_model(server, key=""), await add_model(other)
    with pytest.raises(faults.NotFound) as caught:
        await invoke(user, bare)
    assert caught.value.reason == "KEY_NOT_FOUND"
    answer = await invoke(user, bare, fallback=model_pb2.Fallback(provider_ids=[spare.id]))
    assert (answer.text, answer.invocation.provider_id) == (TEXT, spare.id)
    assert not server.requests
    server.always = "broken"


async def test_the_next_provider_is_asked_when_one_fails_and_only_one_is_charged(
    user: Person, add_model: AddModel, server: FakeModels, other: FakeModels
) -> None:
    first, second = await add_model(server), await add_model(other)
    server.always = "broken"
    fallback = model_pb2.Fallback(provider_ids=[second.id])
    answer = await invoke(user, first, fallback=fallback, request_id=str(uuid.uuid4()))
    assert (answer.invocation.provider_id, answer.invocation.attempts) == (second.id, 4)
    assert "".join((await stream(user, first, fallback=fallback))[0]) == TEXT
    assert await settled(user) == ("2", "0.03")
    other.always = "garbage"
    with pytest.raises(faults.Unavailable) as caught:
        await invoke(user, first, fallback=fallback)
    assert caught.value.reason in {"MODEL_UNAVAILABLE", "CIRCUIT_OPEN"}


async def test_a_request_that_is_refused_is_refused_everywhere(
    user: Person, add_model: AddModel, server: FakeModels, other: FakeModels
) -> None:
    first, second = await add_model(server), await add_model(other)
    server.always = "refused"
    with pytest.raises(faults.FailedPrecondition) as caught:
        await invoke(user, first, fallback=model_pb2.Fallback(provider_ids=[second.id]))
    assert caught.value.reason == "REQUEST_REFUSED"
    assert not other.requests


async def test_the_platforms_key_is_used_where_tenant_and_caller_want_it(
    admin: Person, user: Person, add_model: AddModel, server: FakeModels
) -> None:
    model = await add_model(server, key="", platform_provided=True)
    request = key_pb.StoreKeyRequest(provider_id=model.id, label="all", api_key=KEY + "-platform", platform=True)
    with pytest.raises(faults.PermissionDenied):
        await user.stub(KeyServiceStub).StoreKey(request)
    await admin.stub(KeyServiceStub).StoreKey(request)
    wanted = model_pb2.Fallback(platform_key=True)
    with pytest.raises(faults.NotFound):
        await invoke(user, model, fallback=wanted)  # the tenant does not allow it
    await allow(admin, platform_key_allowed=True)
    with pytest.raises(faults.NotFound):
        await invoke(user, model)  # the caller did not ask for it
    answer = await invoke(user, model, fallback=wanted)
    assert answer.invocation.key_source == model_pb2.KEY_SOURCE_PLATFORM
    assert server.requests[-1].key == KEY + "-platform"
    assert await settled(user) == ("1", "0.015")  # the caller's quota pays


async def test_a_local_model_comes_last_where_tenant_caller_and_operator_want_it(  # noqa: PLR0917 - fixtures
    admin: Person, user: Person, add_model: AddModel, add_provider: AddProvider, server: FakeModels, suite: Suite
) -> None:
    model, local = await add_model(server, key=""), await add_provider(max_tokens=50)
    wanted = model_pb2.Fallback(local=True)
    await allow(admin, local_fallback_allowed=True)
    with pytest.raises(faults.NotFound) as caught:
        await invoke(user, model, fallback=wanted)  # the operator has none
    assert caught.value.reason == "KEY_NOT_FOUND"
    with pytest.raises(faults.FailedPrecondition) as missing:
        await invoke(user, local)
    assert missing.value.reason == "LOCAL_MODEL_MISSING"
    async with FakeModels("openai", prefix="") as machine:
        running = await suite.launch("providers", local_endpoint=f"{machine.url}/v1")
        usual, suite.runtimes["providers"] = suite.runtimes["providers"], running
        try:
            answer = await invoke(user, model, fallback=wanted)
            assert (answer.invocation.provider_id, answer.text) == (local.id, TEXT)
            assert answer.invocation.key_source == model_pb2.KEY_SOURCE_NONE
            assert "authorization" not in machine.requests[-1].headers
            assert "".join((await stream(user, local))[0]) == TEXT
        finally:
            suite.runtimes["providers"] = usual
            await running.stop()


async def test_even_a_lone_provider_breaks_and_one_call_at_a_time_finds_out_that_it_is_back(
    user: Person, model: Provider, server: FakeModels
) -> None:
    server.always = "broken"
    for _ in range(2):
        with pytest.raises(faults.Unavailable):
            await invoke(user, model)
    assert len(server.requests) == 5  # the fifth failure opened it, in the middle of the second call
    refused = await asyncio.gather(*(invoke(user, model) for _ in range(20)), return_exceptions=True)
    assert {fault.reason for fault in refused if isinstance(fault, faults.Fault)} <= {
        "CIRCUIT_OPEN",
        "MODEL_UNAVAILABLE",
    }
    assert len(server.requests) <= 6
    assert any(isinstance(fault, faults.Fault) and fault.reason == "CIRCUIT_OPEN" for fault in refused)
    server.always = "well"
    async with asyncio.timeout(10):
        while isinstance(answer := (await asyncio.gather(invoke(user, model), return_exceptions=True))[0], Exception):
            assert isinstance(answer, faults.Unavailable)
            await asyncio.sleep(0.1)
    assert (await invoke(user, model)).text == TEXT


async def test_over_quota_no_provider_is_asked(
    admin: Person, user: Person, model: Provider, server: FakeModels
) -> None:
    owner = Principal(kind=PrincipalKind.PRINCIPAL_KIND_USER, id=user.id)
    quota = Quota(owner=owner, daily_requests=0)
    await admin.stub(QuotaServiceStub).SetQuota(quota_pb.SetQuotaRequest(quota=quota))
    with pytest.raises(faults.ResourceExhausted) as caught:
        await invoke(user, model)
    assert (caught.value.reason, list(caught.value.violations)) == ("QUOTA_EXCEEDED", ["daily_requests"])
    assert not server.requests


async def test_others_have_no_use_of_a_model_of_the_tenant(
    suite: Suite, admin: Person, model: Provider, server: FakeModels
) -> None:
    stranger = suite.person(Role.ROLE_ADMIN)
    with pytest.raises(faults.NotFound) as caught:
        await invoke(stranger, model)
    assert caught.value.reason == "PROVIDER_NOT_FOUND"
    with pytest.raises(faults.NotFound) as keyless:
        await invoke(admin, model)  # the user's key is the user's
    assert keyless.value.reason == "KEY_NOT_FOUND"
    with pytest.raises(faults.PermissionDenied):
        await invoke(admin.colleague(Role.ROLE_VIEWER), model)
    assert not server.requests


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []}, {"max_output_tokens": -1}, {"temperature": float("nan")}, {"temperature": 2.5},
        {"operation": "Review!"}, {"stop_sequences": [""] }, {"provider_id": "x"},
        {"messages": [model_pb2.ChatMessage(role=model_pb2.CHAT_ROLE_SYSTEM, content="alone")]},
        {"messages": [model_pb2.ChatMessage(role=model_pb2.CHAT_ROLE_USER)]},
    ],
)  # fmt: skip
async def test_a_request_out_of_shape_is_refused(user: Person, model: Provider, changes: dict[str, Any]) -> None:
    with pytest.raises(faults.InvalidArgument):
        await invoke(user, model, **changes)
    assert await settled(user) == ("0", "0")


async def test_a_service_asks_with_the_key_of_whom_it_works_for(
    suite: Suite, user: Person, model: Provider, server: FakeModels
) -> None:
    stub = (await suite.service("experiments", user)).stub(ModelServiceStub)
    assert (await stub.InvokeModel(asking(model))).text == TEXT
    assert server.requests[-1].key == KEY
    assert await settled(user) == ("1", "0.015")


async def test_an_uncounted_answer_is_charged_by_estimate(user: Person, model: Provider, server: FakeModels) -> None:
    server.always = "uncounted"
    given = (await invoke(user, model)).invocation
    assert given.estimated
    assert given.input_tokens == len(SAID) // 3 + 1 + 8
    assert given.output_tokens == -(-len(TEXT) // 3)


async def test_a_count_that_no_ledger_can_price_is_charged_as_what_was_held(
    user: Person, add_model: AddModel, server: FakeModels
) -> None:
    dear = await add_model(server, output_cost_usd_per_1k="100")
    server.counts = (7, 100_000_000)  # ten million dollars
    given = (await invoke(user, dear)).invocation
    assert (given.output_tokens, given.estimated) == (100, True)
    assert await settled(user) == ("1", given.cost_usd)


async def test_a_service_that_stops_settles_its_calls_first(
    suite: Suite, user: Person, model: Provider, server: FakeModels, runtime: Runtime
) -> None:
    running = await suite.launch("providers")
    suite.runtimes["providers"] = running
    server.always = "stall"
    call = user.stub(ModelServiceStub).StreamModel(asking(model, pb.StreamModelRequest))
    await call.read()
    suite.runtimes["providers"] = runtime
    await running.stop()
    async with asyncio.timeout(5):
        assert (await settled(user))[0] == "1"
