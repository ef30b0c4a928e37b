"""What one caller does must not cost the others: impatience, slow reading, dead providers of another tenant."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.kit import faults
from services.kit.server import Runtime
from services.providers import connections, rounds as rounds_module
from services.providers.adapters import Piece, Prompt
from services.providers.circuits import FAILURES
from services.providers.exchanges import Exchanges
from services.providers.failures import CallFailed, Kind
from services.providers.secrets import Secret
from tests.fakes.model_servers import WORDS, FakeModels
from tests.fakes.openai_server import FakeOpenAI
from tests.patience import eventually, until
from tests.providers.conftest import AddProvider
from tests.providers.models import KEY, asking
from tests.providers.rounds import make_rounds
from tests.providers.test_keys_api import OPENAI, store
from tests.providers.test_rotations_api import materials
from tests.providers.test_validations_api import make_due
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    health_service_pb2 as health_pb,
    key_service_pb2 as key_pb,
    provider_health_pb2,
    provider_service_pb2 as provider_pb,
)
from triptych.providers.v1.health_service_pb2_grpc import HealthServiceStub
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.model_service_pb2_grpc import ModelServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub


@pytest.fixture
async def model(add_provider: AddProvider, user: Person, server: FakeModels) -> Provider:
    provider = await add_provider(type=OPENAI, api_endpoint=server.url, max_tokens=100)
    request = key_pb.StoreKeyRequest(provider_id=provider.id, label="mine", api_key=KEY)
    await user.stub(KeyServiceStub).StoreKey(request)
    return provider


async def test_who_has_no_time_does_not_switch_a_provider_off_for_the_others(
    user: Person, model: Provider, server: FakeModels
) -> None:
    server.always = "slow"
    stub = user.stub(ModelServiceStub)
    for timeout in (1.0, 0.4):  # the margin for settling leaves less than nothing of the second
        calls = (stub.InvokeModel(asking(model), timeout=timeout) for _ in range(FAILURES))
        for one in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(one, faults.Fault)
            assert one.reason != "CIRCUIT_OPEN"
    server.always = "well"
    assert (await stub.InvokeModel(asking(model))).text == " ".join(WORDS)
    listed = await user.stub(HealthServiceStub).ListProviderHealth(health_pb.ListProviderHealthRequest())
    assert listed.provider_health[0].state == provider_health_pb2.HEALTH_STATE_HEALTHY


async def test_who_reads_slowly_says_nothing_of_the_provider(server: FakeModels) -> None:
    server.always = "stall"
    client = Exchanges(allow_loopback=True)
    provider: Any = {"type": "openai", "model_name": "m", "api_endpoint": server.url}
    prompt = Prompt([("user", "hello")], 100)
    pieces = client.pieces(provider, Secret(KEY), prompt, stream=True, seconds=1.0)
    while not (await anext(pieces)).text:
        pass
    await asyncio.sleep(1.1)  # its time is over, and nobody was waiting for it
    with pytest.raises(CallFailed) as caught:
        await drain(pieces)
    assert caught.value.problem == "timeout"
    assert not caught.value.blames(10.0)
    await client.close()


async def drain(pieces: AsyncIterator[Piece]) -> None:
    async for _ in pieces:
        pass


def test_a_provider_that_had_its_time_has_failed() -> None:
    assert CallFailed(Kind.FAILED, "timeout", waited=5.0).blames(5.0)
    assert not CallFailed(Kind.FAILED, "timeout", waited=4.9).blames(5.0)
    assert CallFailed(Kind.FAILED, "status 500").blames(5.0)
    assert not CallFailed(Kind.BUSY, "busy").blames(5.0)


async def test_keys_of_one_tenant_end_while_a_provider_of_another_does_not_answer(
    suite: Suite, runtime: Runtime, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "SECONDS", 0.05)
    monkeypatch.setattr(connections, "PROBE_SECONDS", 600.0)
    async with FakeOpenAI() as dead, FakeOpenAI() as well:
        theirs, ours = [await one_key(suite.person(Role.ROLE_ADMIN), server) for server in (dead, well)]
        await make_due(superuser, theirs)
        dead.mode = "slow"
        dead.requests.clear()
        async with make_rounds(runtime) as rounds:
            going = asyncio.create_task(rounds.run())
            try:
                await until(lambda: dead.requests)  # somebody, this process or the suite's own, waits for it now
                await superuser.execute("UPDATE user_providers SET expire_time = now() WHERE id = $1", ours.id)
                await eventually(lambda: materials(superuser, ours), lambda left: left == (None, None))
                assert not dead.released.is_set()
            finally:
                going.cancel()
                await asyncio.wait([going])


async def one_key(admin: Person, server: FakeOpenAI) -> Any:
    provider = Provider(
        name="one", type=OPENAI, model_name="m", api_endpoint=server.url, max_tokens=10, timeout_seconds=600
    )
    request = provider_pb.CreateProviderRequest(provider=provider)
    made = (await admin.stub(ProviderServiceStub).CreateProvider(request)).provider
    return await store(admin, made)
