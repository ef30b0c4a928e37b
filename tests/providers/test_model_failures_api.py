"""Models that fail, callers who hang up, and a service that stops: tries, reasons, circuits, and nothing held."""

import asyncio
import uuid
from typing import Any

import pytest

from services.kit import faults
from tests.fakes.model_servers import FakeModels
from tests.patience import eventually, until, within
from tests.providers.models import TEXT, asking, invoke, settled, stream, streaming_fault
from tests.suite import Person, Suite
from triptych.providers.v1 import (
    key_service_pb2 as key_pb,
    model_service_pb2 as pb,
)
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.model_service_pb2_grpc import ModelServiceStub
from triptych.providers.v1.provider_pb2 import Provider

pytestmark = pytest.mark.usefixtures("short_pauses")


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
        await user.stub(ModelServiceStub).InvokeModel(asking(model))
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


async def more_than(begun: int, server: FakeModels) -> None:
    """Wait until it was asked once more."""
    await until(lambda: len(server.requests) > begun)


async def test_who_hangs_up_before_a_word_pays_nothing(user: Person, model: Provider, server: FakeModels) -> None:
    server.always = "slow"
    stub = user.stub(ModelServiceStub)
    for method, kind in ((stub.InvokeModel, pb.InvokeModelRequest), (stub.StreamModel, pb.StreamModelRequest)):
        begun, ask = len(server.requests), method(asking(model, kind))
        task = asyncio.ensure_future(ask.read() if hasattr(ask, "read") else ask)
        await more_than(begun, server)
        ask.cancel()
        await within(asyncio.wait([task]))
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


async def test_a_deadline_is_kept_and_the_hold_goes(
    user: Person, model: Provider, server: FakeModels, superuser: Any
) -> None:
    server.always = "slow"
    with pytest.raises(faults.Fault):
        await user.stub(ModelServiceStub).InvokeModel(asking(model), timeout=1.5)
    assert await settled(user) == ("0", "0")
    rows = await superuser.fetch("SELECT state FROM reservations WHERE tenant_id = $1", user.tenant_id)
    assert {row["state"] for row in rows} <= {"released"}  # it went back, and was not left to its end


async def test_after_a_failure_the_request_id_is_free(user: Person, model: Provider, server: FakeModels) -> None:
    request_id = str(uuid.uuid4())
    server.script.append("garbage")
    with pytest.raises(faults.Unavailable):
        await invoke(user, model, request_id=request_id)
    assert (await invoke(user, model, request_id=request_id)).text == TEXT


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

    async def back() -> bool:
        try:
            await invoke(user, model)
        except faults.Unavailable:
            return False
        return True

    await eventually(back)
    assert (await invoke(user, model)).text == TEXT


async def test_a_service_that_stops_settles_its_calls_first(
    suite: Suite, user: Person, model: Provider, server: FakeModels
) -> None:
    server.always = "stall"
    async with suite.instead("providers") as running:
        call = user.stub(ModelServiceStub).StreamModel(asking(model, pb.StreamModelRequest))
        await call.read()
    await running.stop()
    assert (await settled(user))[0] == "1"
