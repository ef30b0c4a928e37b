"""OpenBao sealed under load: warm keys are served, all else is told at once, and nothing is restarted afterwards."""

import asyncio
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from services.kit import faults
from services.providers.guards import Guard
from tests.fakes.openai_server import FakeOpenAI
from tests.patience import eventually
from tests.providers.islands import Island
from tests.providers.test_keys_api import OPENAI, secret, to_resolve, to_store
from tests.suite import Person
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.provider_service_pb2 import CreateProviderRequest, GetProviderRequest
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.key_service_pb2_grpc import KeyServiceAsyncStub

OUTAGE = 60.0
"""Seconds; a minute is what is promised, so a minute is what is tried."""
WARM, CALLERS = 20, 4
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

    async def stored() -> bool:
        try:
            await stub.StoreKey(to_store(provider))
        except faults.Unavailable:
            return False
        return True

    await eventually(stored)


def late(times: list[float]) -> float:
    """The time that nineteen of twenty were not above."""
    return statistics.quantiles(times, n=20)[-1]


async def timed(call: Awaitable[Any]) -> tuple[Any, float]:
    """Give what came of a call, and how long it took."""
    began = time.perf_counter()
    try:
        answer = await call
    except faults.Unavailable as fault:
        answer = fault
    return answer, time.perf_counter() - began


class Load:
    """People who go on using the service while its OpenBao is sealed, and what they met with."""

    def __init__(self, admin: Person, provider: Provider, experiments: "KeyServiceAsyncStub") -> None:
        self.provider = provider
        self.experiments = experiments
        self.people = [admin.colleague(Role.ROLE_USER) for _ in range(WARM + 1)]
        self.values = {person.id: secret() for person in self.people}
        self.served = Counter[str]()
        self.last: dict[str, float] = {}
        self.refused: list[tuple[float, float]] = []
        self.others: list[tuple[float, float]] = []

    async def store(self) -> None:
        for person in self.people:
            await person.stub(KeyServiceStub).StoreKey(to_store(self.provider, self.values[person.id]))

    async def open_key(self, person: Person) -> None:
        answer = await self.experiments.ResolveKey(to_resolve(person, self.provider))
        assert answer.api_key == self.values[person.id]

    async def keep_opening(self, people: list[Person], until: float) -> None:
        """Whichever fails ends the test."""
        while time.monotonic() < until:
            for person in people:
                await self.open_key(person)
                self.served[person.id] += 1
                self.last[person.id] = time.monotonic()
                await asyncio.sleep(0.01)

    async def keep_failing(self, cold: Person, until: float) -> None:
        request = GetProviderRequest(provider_id=self.provider.id)
        while time.monotonic() < until:
            resolve = self.experiments.ResolveKey(to_resolve(cold, self.provider))
            for call, times in (
                (resolve, self.refused),
                (cold.stub(KeyServiceStub).StoreKey(to_store(self.provider)), self.others),
            ):
                echo = cold.stub(ProviderServiceStub).GetProvider(request)
                (fault, seconds), (_, needed) = await asyncio.gather(timed(call), timed(echo))
                assert (fault.reason, fault.facts["dependency"]) == ("DEPENDENCY_UNAVAILABLE", "openbao")
                times.append((seconds, needed))
            await asyncio.sleep(0.02)


async def test_sealed_for_a_minute_under_load_every_warm_key_opens_and_all_else_is_refused_at_once(
    island: Island, fake: FakeOpenAI
) -> None:
    admin = island.person(Role.ROLE_ADMIN)
    experiments = (await island.service("experiments", admin)).stub(KeyServiceStub)
    load = Load(admin, await add_provider(admin, fake), experiments)
    await load.store()
    *warm, cold = load.people
    for person in warm:
        await load.open_key(person)
    fake.requests.clear()
    running = island.runtimes["providers"]
    async with sealed(island):
        until = time.monotonic() + OUTAGE
        opening = (load.keep_opening(warm[number::CALLERS], until) for number in range(CALLERS))
        await asyncio.gather(*opening, load.keep_failing(cold, until))
    assert all(until - load.last[person.id] < OUTAGE / 4 for person in warm)  # each of them, to the end
    assert min(load.served.values()) > 20
    for times in (load.refused, load.others):
        assert statistics.median(seconds for seconds, _ in times) < QUICK
        # The machine may be busy with others; what a call that asks nobody needs at the same moment is not ours.
        assert late([seconds - needed for seconds, needed in times]) < QUICK
    assert not fake.requests  # a key that cannot be sealed is not sent around either
    await back(admin, load.provider)
    for person in load.people:
        await load.open_key(person)
    assert island.runtimes["providers"] is running


async def test_a_server_that_never_answers_is_given_up_and_comes_back(island: Island) -> None:
    runtime = island.runtimes["providers"]
    guard = Guard(runtime.vault, url=island.openbao.url)
    async with AsyncExitStack() as ended:
        ended.push_async_callback(guard.close)
        watching = asyncio.create_task(guard.watch())
        ended.callback(watching.cancel)
        await _given_up_and_back(island, guard)


async def _given_up_and_back(island: Island, guard: Guard) -> None:
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

    async def answers() -> Any:
        with suppress(faults.Unavailable):
            return await guard.write("transit/hmac/providers-fingerprint", input="YQ==")

    assert (await eventually(answers))["hmac"]
