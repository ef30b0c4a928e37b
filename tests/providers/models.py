"""Asking models as tests do it: by a whole answer, by a stream, with a fallback; and what it came to."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from services.kit import faults
from tests.fakes.model_servers import WORDS
from tests.patience import eventually
from tests.providers.quotas import windows
from tests.suite import Person
from triptych.providers.v1 import (
    model_pb2,
    model_service_pb2 as pb,
    tenant_ai_config_service_pb2 as config_pb,
)
from triptych.providers.v1.model_service_pb2_grpc import ModelServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.tenant_ai_config_pb2 import TenantAiConfig
from triptych.providers.v1.tenant_ai_config_service_pb2_grpc import TenantAiConfigServiceStub

KEY = "sk-demo-0123456789abcdef"


TEXT = " ".join(WORDS)


SAID = "a prompt that nobody else may read"


AddModel = Callable[..., Awaitable[Provider]]


def asking(provider: Provider, kind: Any = pb.InvokeModelRequest, **changes: Any) -> Any:
    """Make a request of a provider."""
    message = model_pb2.ChatMessage(role=model_pb2.CHAT_ROLE_USER, content=SAID)
    return kind(**({"provider_id": provider.id, "operation": "review", "messages": [message]} | changes))


async def invoke(person: Person, provider: Provider, **changes: Any) -> pb.InvokeModelResponse:
    """Ask for a whole answer."""
    return await person.stub(ModelServiceStub).InvokeModel(asking(provider, **changes))


async def stream(person: Person, provider: Provider, **changes: Any) -> tuple[list[str], model_pb2.Invocation]:
    """Ask for a stream; give its pieces and what it came to."""
    call = person.stub(ModelServiceStub).StreamModel(asking(provider, pb.StreamModelRequest, **changes))
    messages = [message async for message in call]
    return [message.text for message in messages[:-1]], messages[-1].invocation


async def streaming_fault(person: Person, provider: Provider, **changes: Any) -> faults.Fault:
    """Ask for a stream that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(person, provider, **changes)
    return faults.from_error(caught.value, service="providers")


async def settled(person: Person) -> tuple[str, str]:
    """Requests of the day and cost, once nothing is held any more."""
    now = await eventually(lambda: windows(person), lambda now: now["daily_requests"][1] == "0")
    return now["daily_requests"][0], now["daily_cost_usd"][0]


async def allow(admin: Person, **changes: Any) -> None:
    """Set what the tenant allows."""
    request = config_pb.UpdateTenantAiConfigRequest(config=TenantAiConfig(**changes))
    await admin.stub(TenantAiConfigServiceStub).UpdateTenantAiConfig(request)
