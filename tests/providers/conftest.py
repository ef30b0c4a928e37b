"""The providers service with loopback endpoints allowed, a fake provider, and what most tests begin with."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg
import pytest
from redis.asyncio import Redis

from services.kit import valkey
from services.kit.server import Runtime
from services.providers import tries
from services.providers.bookings import Bookings
from services.providers.budgets import Budgets
from services.providers.counters import Counters
from services.providers.rebuilds import Rebuilds
from tests.conftest import copy_database
from tests.fakes.model_servers import FakeModels
from tests.fakes.openai_server import FakeOpenAI
from tests.providers.islands import Island
from tests.providers.models import KEY, AddModel
from tests.providers.quotas import bookings_with
from tests.suite import Person, Suite, superuser_of
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import key_service_pb2 as key_pb, provider_service_pb2 as provider_pb
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider, ProviderType
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.key_service_pb2_grpc import KeyServiceAsyncStub
    from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub

AddProvider = Callable[..., Awaitable[Provider]]


@pytest.fixture
async def runtime(suite: Suite) -> Runtime:
    """The service, with loopback endpoints allowed, as everywhere in development."""
    await suite.start("providers")
    return suite.runtimes["providers"]


@pytest.fixture
def admin(suite: Suite, runtime: Runtime) -> Person:
    return suite.person(Role.ROLE_ADMIN)


@pytest.fixture
def user(admin: Person) -> Person:
    return admin.colleague(Role.ROLE_USER)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
def add_provider(admin: Person) -> AddProvider:
    """Add a provider to the admin's tenant: by default a local one, a dollar for 1,000 tokens in and two for out."""

    async def add(**changes: object) -> Provider:
        usual = {
            "name": f"p-{uuid.uuid4()}",
            "type": ProviderType.PROVIDER_TYPE_LOCAL,
            "model_name": "reviewer",
            "input_cost_usd_per_1k": "1",
            "output_cost_usd_per_1k": "2",
            "max_tokens": 4096,
            "timeout_seconds": 30,
        }
        request = provider_pb.CreateProviderRequest(provider=Provider(**(usual | changes)))  # type: ignore[arg-type]
        return (await admin.stub(ProviderServiceStub).CreateProvider(request)).provider

    return add


@pytest.fixture
async def store(runtime: Runtime) -> AsyncIterator[Redis]:
    """A client of Valkey, to look and to break."""
    client = valkey.connect(runtime.settings)
    yield client
    await client.aclose()


@pytest.fixture
async def superuser(suite: Suite) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that sees everything."""
    async with superuser_of(suite.backends, suite.database) as connection:
        await connection.execute("SET search_path TO providers")
        yield connection


@pytest.fixture(scope="session")
async def island(services: Suite, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Island]:
    """A service that has its OpenBao and its database to itself."""
    name = f"{services.database}_island"
    await asyncio.to_thread(copy_database, services.backends, name)
    folder = tmp_path_factory.mktemp("island")
    running = Island(services.backends, name, folder)
    try:
        await running.start("providers")
        yield running
    finally:
        await running.stop()


@pytest.fixture
async def provider(add_provider: AddProvider) -> Provider:
    return await add_provider()


@pytest.fixture
async def stub(user: Person) -> "QuotaServiceAsyncStub":
    return user.stub(QuotaServiceStub)


@pytest.fixture
async def experiments(suite: Suite, user: Person) -> "KeyServiceAsyncStub":
    """A service that works for the user."""
    return (await suite.service("experiments", user)).stub(KeyServiceStub)


@pytest.fixture
async def counters(store: Redis) -> Counters:
    return Counters(store)


@pytest.fixture
async def budgets(runtime: Runtime, counters: Counters) -> Budgets:
    return Budgets(db=runtime.db, counters=counters)


@pytest.fixture
async def bookings(runtime: Runtime, store: Redis) -> Bookings:
    return bookings_with(runtime, store)


@pytest.fixture
async def rebuilds(runtime: Runtime, counters: Counters) -> Rebuilds:
    return Rebuilds(db=runtime.db, counters=counters)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other quickly."""
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.02)


@pytest.fixture
async def server() -> AsyncIterator[FakeModels]:
    """A provider that speaks OpenAI's format."""
    async with FakeModels("openai") as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[FakeModels]:
    """One that speaks Anthropic's."""
    async with FakeModels("anthropic") as running:
        yield running


@pytest.fixture
async def add_model(add_provider: AddProvider, user: Person) -> AddModel:
    """Add a provider at a server, with a key of the user's unless they have none."""

    async def add(at: FakeModels, *, key: str = KEY, person: Person | None = None, **changes: object) -> Provider:
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
