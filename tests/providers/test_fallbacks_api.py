"""Who may answer in another's place: what the tenant forbids is left out, and no key is opened for nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.kit import faults
from tests.fakes.model_servers import FakeModels
from tests.providers.conftest import AddProvider
from tests.providers.test_budgets_api import configure
from tests.providers.test_keys_api import OPENAI
from tests.providers.test_models_api import KEY, allow, invoke
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import key_service_pb2 as key_pb, model_pb2
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.tenant_ai_config_pb2 import TierOverride


@pytest.fixture
async def server() -> AsyncIterator[FakeModels]:
    async with FakeModels("openai") as running:
        yield running


@pytest.fixture
async def models(add_provider: AddProvider, user: Person, server: FakeModels) -> list[Provider]:
    """Three at one server, with keys for the second and the third."""
    found = [await add_provider(type=OPENAI, api_endpoint=server.url, max_tokens=100) for _ in range(3)]
    for provider in found[1:]:
        request = key_pb.StoreKeyRequest(provider_id=provider.id, label="mine", api_key=KEY)
        await user.stub(KeyServiceStub).StoreKey(request)
    server.requests.clear()
    return found


async def opened(superuser: Any, person: Person) -> int:
    sql = "SELECT count(*) FROM outbox WHERE tenant_id = $1 AND action = 'providers.key.resolve'"
    return int(await superuser.fetchval(sql, person.tenant_id))


async def test_a_provider_that_the_role_may_not_use_is_passed_over(
    admin: Person, user: Person, models: list[Provider]
) -> None:
    first, second, third = models
    fallback = model_pb2.Fallback(provider_ids=[second.id, third.id])
    await allow(admin, tier_overrides=[TierOverride(role=Role.ROLE_USER, provider_ids=[first.id, third.id])])
    assert (await invoke(user, first, fallback=fallback)).invocation.provider_id == third.id


async def test_a_provider_is_asked_once_however_often_it_is_named(
    user: Person, models: list[Provider], server: FakeModels
) -> None:
    first, second, _ = models
    server.always = "forbidden"
    ids = [second.id, second.id.upper(), first.id.upper()]
    with pytest.raises(faults.FailedPrecondition) as caught:
        await invoke(user, first, fallback=model_pb2.Fallback(provider_ids=ids))
    assert (caught.value.reason, len(server.requests)) == ("KEY_REFUSED", 1)


@pytest.mark.parametrize("forbidden", ["switched off", "role"])
async def test_no_key_is_opened_for_a_call_that_the_tenant_forbids(  # noqa: PLR0917 - fixtures
    admin: Person, user: Person, models: list[Provider], server: FakeModels, superuser: Any, forbidden: str
) -> None:
    if forbidden == "role":
        await allow(admin, tier_overrides=[TierOverride(role=Role.ROLE_USER, provider_ids=[models[2].id])])
    else:
        await configure(admin, "ai_enabled")
    with pytest.raises((faults.FailedPrecondition, faults.PermissionDenied)) as caught:
        await invoke(user, models[1])
    assert caught.value.reason in {"AI_DISABLED", "PROVIDER_NOT_ALLOWED"}
    assert (await opened(superuser, user), len(server.requests)) == (0, 0)


async def test_a_local_model_is_no_way_around_the_tenants_switch(
    admin: Person, user: Person, models: list[Provider], add_provider: AddProvider, suite: Suite
) -> None:
    local = await add_provider(max_tokens=50)
    named = model_pb2.Fallback(provider_ids=[local.id])
    async with FakeModels("openai", prefix="") as machine:
        running = await suite.launch("providers", local_endpoint=f"{machine.url}/v1")
        usual, suite.runtimes["providers"] = suite.runtimes["providers"], running
        try:
            with pytest.raises(faults.NotFound) as caught:
                await invoke(user, models[0], fallback=named)
            assert caught.value.reason == "KEY_NOT_FOUND"
            assert not machine.requests
            await allow(admin, local_fallback_allowed=True)
            assert (await invoke(user, models[0], fallback=named)).invocation.provider_id == local.id
        finally:
            suite.runtimes["providers"] = usual
            await running.stop()
