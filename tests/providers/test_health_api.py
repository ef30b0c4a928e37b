"""HealthService: what checks and calls show, how a state changes and changes back, and streams that end."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from hypothesis import given, strategies as st

from services.kit import faults
from services.kit.server import Runtime
from services.providers import tries
from services.providers.checks import Checks
from services.providers.circuits import FAILURES, Circuits
from services.providers.exchanges import Exchanges
from services.providers.healths import Standing
from tests.fakes.model_servers import FakeModels
from tests.providers.conftest import AddProvider
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    health_service_pb2 as pb,
    key_service_pb2 as key_pb,
    model_pb2,
    model_service_pb2 as model_pb,
    provider_health_pb2 as health,
)
from triptych.providers.v1.health_service_pb2_grpc import HealthServiceStub
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.model_service_pb2_grpc import ModelServiceStub
from triptych.providers.v1.provider_pb2 import Provider, ProviderType


@pytest.fixture
async def provider(add_provider: AddProvider, server: FakeModels) -> Provider:
    return await add_provider(type=ProviderType.PROVIDER_TYPE_OPENAI, api_endpoint=server.url)


@pytest.fixture
async def checks(runtime: Runtime) -> AsyncIterator[Checks]:
    exchanges = Exchanges(allow_loopback=True)
    yield Checks(db=runtime.db, exchanges=exchanges, seconds=300)
    await exchanges.close()


async def listed(person: Person) -> list[health.ProviderHealth]:
    answer = await person.stub(HealthServiceStub).ListProviderHealth(pb.ListProviderHealthRequest())
    return list(answer.provider_health)


def test_a_state_changes_slowly_in_both_directions() -> None:
    standing = Standing()
    states = []
    for ok in (False,) * 6 + (True,) * 2 + (False,) + (True,) * 3:
        standing = standing.after(ok=ok)
        states.append(standing.state)
    assert states == [
        "unknown", "unknown", "degraded", "degraded", "unhealthy", "unhealthy",
        "unhealthy", "unhealthy", "unhealthy", "unhealthy", "unhealthy", "healthy",
    ]  # fmt: skip
    assert Standing().after(ok=True).state == "healthy"


@given(st.lists(st.booleans(), max_size=60))
def test_three_in_a_row_decide_whatever_came_before(results: list[bool]) -> None:
    standing = Standing()
    for ok in results:
        standing = standing.after(ok=ok)
        assert min(standing.failures, standing.successes) == 0
        assert standing.state != "healthy" or standing.failures < 3
        assert standing.state == "unhealthy" or standing.failures < 5
    for _ in range(3):
        standing = standing.after(ok=True)
    assert standing.state == "healthy"


def test_a_circuit_lets_one_through_at_a_time_and_waits_longer_each_time() -> None:
    now = [0.0]
    circuits, provider = Circuits(lambda: now[0]), {"tenant_id": "t", "id": "p", "destination_host": "h"}
    some: Any = provider

    def ask(*, last_resort: bool = False) -> bool:
        return circuits.enter(some, last_resort=last_resort) is None

    for _ in range(FAILURES):
        assert ask()
        circuits.leave(some, failed=True)
    assert circuits.is_open(some)
    assert not ask()
    assert ask(last_resort=True)  # nobody else is left
    assert not ask(last_resort=True)  # and one is enough
    circuits.leave(some, failed=True)
    now[0] = 33.1  # the second time it stays open for about a minute
    assert not ask()
    now[0] = 70.0
    assert ask()
    assert not ask()
    circuits.leave(some, failed=None)  # the call was given up: nothing is known
    assert ask()
    circuits.leave(some, failed=False)
    assert not circuits.is_open(some)
    assert all(ask() for _ in range(10))


def test_circuits_of_hosts_are_their_own() -> None:
    circuits = Circuits()
    first: Any = {"tenant_id": "t", "id": "p", "destination_host": "one"}
    for _ in range(FAILURES):
        circuits.leave(first, failed=True)
    assert circuits.is_open(first)
    others: list[Any] = [{**first, "destination_host": "two"}, {**first, "tenant_id": "u"}]
    assert not any(circuits.is_open(other) for other in others)


async def test_a_provider_that_nobody_asked_is_unknown(admin: Person, provider: Provider) -> None:
    found = await listed(admin.colleague(Role.ROLE_VIEWER))
    assert [(one.provider_id, one.state) for one in found] == [(provider.id, health.HEALTH_STATE_UNKNOWN)]
    assert not found[0].HasField("check_time")


async def test_checks_degrade_condemn_and_bring_back(
    admin: Person, provider: Provider, server: FakeModels, checks: Checks, superuser: Any
) -> None:
    seen = []
    old = "UPDATE providers SET create_time = now() - interval '1 hour' WHERE id = $1"
    await superuser.execute(old, provider.id)
    for mode in ("broken",) * 5 + ("well",) * 3:
        server.always = mode
        await checks.check()
        seen.append((await listed(admin))[0].state)
        await superuser.execute("UPDATE provider_health SET due_time = now() WHERE provider_id = $1", provider.id)
    unhealthy, degraded = health.HEALTH_STATE_UNHEALTHY, health.HEALTH_STATE_DEGRADED
    assert seen[2:] == [degraded, degraded, unhealthy, unhealthy, unhealthy, health.HEALTH_STATE_HEALTHY]
    assert all("authorization" not in request.headers for request in server.requests)


async def test_a_check_is_made_once_however_many_look_and_then_minutes_later(
    provider: Provider, server: FakeModels, checks: Checks, superuser: Any
) -> None:
    await checks.check()
    assert not server.requests  # it was added just now
    await superuser.execute("UPDATE providers SET create_time = now() - interval '1 hour' WHERE id = $1", provider.id)
    await asyncio.gather(*(checks.check() for _ in range(5)))
    assert len(server.requests) == 1
    due = await superuser.fetchval("SELECT due_time - now() FROM provider_health WHERE provider_id = $1", provider.id)
    assert 260 < due.total_seconds() < 340


async def test_what_calls_come_to_is_seen_in_the_health(
    user: Person, provider: Provider, server: FakeModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.02)
    request = key_pb.StoreKeyRequest(provider_id=provider.id, label="mine", api_key="sk-demo-0123456789abcdef")
    await user.stub(KeyServiceStub).StoreKey(request)
    message = model_pb2.ChatMessage(role=model_pb2.CHAT_ROLE_USER, content="hello")
    asked = model_pb.InvokeModelRequest(provider_id=provider.id, operation="review", messages=[message])
    stub = user.stub(ModelServiceStub)
    await stub.InvokeModel(asked)
    assert (await listed(user))[0].state == health.HEALTH_STATE_HEALTHY
    server.always = "broken"
    with pytest.raises(faults.Unavailable):
        await stub.InvokeModel(asked)
    found = (await listed(user))[0]
    assert (found.state, found.consecutive_failures, found.problem) == (health.HEALTH_STATE_DEGRADED, 3, "status 500")
    server.always = "well"
    await stub.InvokeModel(asked)
    assert (await listed(user))[0].consecutive_failures == 0


async def test_a_watch_shows_how_things_stand_then_each_change_and_ends(
    admin: Person, provider: Provider, server: FakeModels, checks: Checks, superuser: Any
) -> None:
    call = admin.stub(HealthServiceStub).WatchProviderHealth(pb.WatchProviderHealthRequest(seconds=300))
    first: Any = await call.read()
    assert first.provider_health.state == health.HEALTH_STATE_UNKNOWN
    await superuser.execute("UPDATE providers SET create_time = now() - interval '1 hour' WHERE id = $1", provider.id)
    await checks.check()
    second: Any = await call.read()
    assert second.provider_health.state == health.HEALTH_STATE_HEALTHY
    call.cancel()
    call = admin.stub(HealthServiceStub).WatchProviderHealth(pb.WatchProviderHealthRequest(seconds=1))
    assert [message.provider_health.state async for message in call] == [health.HEALTH_STATE_HEALTHY]
    assert await call.code() is grpc.StatusCode.OK


async def test_lists_page_and_show_nothing_of_others(suite: Suite, admin: Person, add_provider: AddProvider) -> None:
    names = sorted([(await add_provider(name=f"h-{uuid.uuid4().hex}")).name for _ in range(3)])
    stub = admin.stub(HealthServiceStub)
    first = await stub.ListProviderHealth(pb.ListProviderHealthRequest(page_size=2))
    second = await stub.ListProviderHealth(pb.ListProviderHealthRequest(page_size=2, page_token=first.next_page_token))
    assert [one.provider_name for one in (*first.provider_health, *second.provider_health)] == names
    assert not await listed(suite.person(Role.ROLE_ADMIN))
    with pytest.raises(faults.PermissionDenied):
        await listed(admin.colleague(Role.ROLE_GUEST))
