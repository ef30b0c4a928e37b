"""Who may answer in another's place: what the tenant forbids is left out, and no key is opened for nothing."""

import uuid
from typing import Any

import pytest

from services.kit import faults
from tests.fakes.model_servers import FakeModels
from tests.providers.budgets import configure
from tests.providers.conftest import AddProvider
from tests.providers.models import KEY, TEXT, AddModel, allow, invoke, settled, stream, streaming_fault
from tests.providers.test_keys_api import OPENAI
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    key_service_pb2 as key_pb,
    model_pb2,
)
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.tenant_ai_config_pb2 import TierOverride

pytestmark = pytest.mark.usefixtures("short_pauses")


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
    async with (
        FakeModels("openai", prefix="") as machine,
        suite.instead("providers", local_endpoint=f"{machine.url}/v1"),
    ):
        with pytest.raises(faults.NotFound) as caught:
            await invoke(user, models[0], fallback=named)
        assert caught.value.reason == "KEY_NOT_FOUND"
        assert not machine.requests
        await allow(admin, local_fallback_allowed=True)
        assert (await invoke(user, models[0], fallback=named)).invocation.provider_id == local.id


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
    async with (
        FakeModels("openai", prefix="") as machine,
        suite.instead("providers", local_endpoint=f"{machine.url}/v1"),
    ):
        answer = await invoke(user, model, fallback=wanted)
        assert (answer.invocation.provider_id, answer.text) == (local.id, TEXT)
        assert answer.invocation.key_source == model_pb2.KEY_SOURCE_NONE
        assert "authorization" not in machine.requests[-1].headers
        assert "".join((await stream(user, local))[0]) == TEXT
