"""OpenBao sealed under load: warm keys are served, all else is told at once, and nothing is restarted afterwards."""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.kit import faults
from services.providers.guards import Guard
from tests.fakes.openai_server import FakeOpenAI
from tests.providers.islands import Island
from tests.providers.test_keys_api import OPENAI, secret, to_resolve, to_store
from tests.suite import Person
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.provider_service_pb2 import CreateProviderRequest
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub

OUTAGE = 3.0
QUICK = 0.1


@asynccontextmanager
async def sealed(island: Island) -> AsyncIterator[None]:
    """OpenBao's own seal; afterwards it is unsealed, and nobody is told."""
    await asyncio.to_thread(island.root.sys.seal)
    try:
        yield
    finally:
        await asyncio.to_thread(island.openbao.unlock)


@asynccontextmanager
async def stopped(island: Island) -> AsyncIterator[None]:
    """A process that takes connections and never answers."""
    process = island.openbao.process
    assert process is not None
    os.kill(process.popen.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.popen.pid, signal.SIGCONT)


async def add_provider(person: Person, fake: FakeOpenAI) -> Provider:
    provider = Provider(
        name="one", type=OPENAI, model_name="m", api_endpoint=fake.url, max_tokens=10, timeout_seconds=5
    )
    request = CreateProviderRequest(provider=provider)
    return (await person.stub(ProviderServiceStub).CreateProvider(request)).provider


async def back(person: Person, provider: Provider) -> None:
    """Wait until keys can be stored again, as a client would: by trying."""
    stub = person.stub(KeyServiceStub)
    async with asyncio.timeout(20):
        while True:
            try:
                await stub.StoreKey(to_store(provider))
            except faults.Unavailable:
                await asyncio.sleep(0.1)
            else:
                return


async def test_while_openbao_is_sealed_warm_keys_open_and_cold_ones_are_refused_at_once(
    island: Island, fake: FakeOpenAI
) -> None:
    admin = island.person(Role.ROLE_ADMIN)
    warm, cold = admin.colleague(Role.ROLE_USER), admin.colleague(Role.ROLE_USER)
    provider = await add_provider(admin, fake)
    values = {person.id: secret() for person in (warm, cold)}
    for person in (warm, cold):
        await person.stub(KeyServiceStub).StoreKey(to_store(provider, values[person.id]))
    experiments = (await island.service("experiments", admin)).stub(KeyServiceStub)
    assert (await experiments.ResolveKey(to_resolve(warm, provider))).api_key == values[warm.id]
    served, refused, others = 0, list[float](), list[float]()
    fake.requests.clear()

    async def keep_opening(until: float) -> None:
        nonlocal served
        while time.monotonic() < until:
            assert (await experiments.ResolveKey(to_resolve(warm, provider))).api_key == values[warm.id]
            served += 1

    async def keep_failing(until: float) -> None:
        while time.monotonic() < until:
            for call, times in (
                (experiments.ResolveKey(to_resolve(cold, provider)), refused),
                (warm.stub(KeyServiceStub).StoreKey(to_store(provider)), others),
            ):
                began = time.perf_counter()
                with pytest.raises(faults.Unavailable) as caught:
                    await call
                assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
                assert caught.value.facts["dependency"] == "openbao"
                times.append(time.perf_counter() - began)
            await asyncio.sleep(0.01)

    async with sealed(island):
        until = time.monotonic() + OUTAGE
        await asyncio.gather(*(keep_opening(until) for _ in range(4)), keep_failing(until))
    assert served > 20
    assert statistics.median(refused) < QUICK
    assert statistics.median(others) < QUICK
    assert not fake.requests  # a key that cannot be sealed is not sent around either
    await back(warm, provider)
    assert (await experiments.ResolveKey(to_resolve(cold, provider))).api_key == values[cold.id]


async def test_a_server_that_never_answers_is_given_up_and_comes_back(island: Island) -> None:
    runtime = island.runtimes["providers"]
    guard = Guard(runtime.vault, url=island.openbao.url)
    watching = asyncio.create_task(guard.watch())
    async with stopped(island):
        began = time.perf_counter()
        with pytest.raises(faults.Unavailable):
            await guard.write("transit/hmac/providers-fingerprint", input="YQ==")
        assert time.perf_counter() - began < 3.5  # two silent looks, not three attempts of two seconds each
        times = []
        for _ in range(20):
            began = time.perf_counter()
            with pytest.raises(faults.Unavailable):
                await guard.write("transit/hmac/providers-fingerprint", input="YQ==")
            times.append(time.perf_counter() - began)
        assert statistics.median(times) < QUICK
    async with asyncio.timeout(20):
        while True:
            try:
                assert (await guard.write("transit/hmac/providers-fingerprint", input="YQ=="))["hmac"]
                break
            except faults.Unavailable:
                await asyncio.sleep(0.1)
    watching.cancel()
    await guard.close()
