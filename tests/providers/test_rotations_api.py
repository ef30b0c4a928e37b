"""RotateKey over the wire: the new value first, a day's grace for the old one, and none where it would harm."""

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from services.kit import faults
from services.kit.server import Runtime
from tests.fakes.openai_server import FakeOpenAI
from tests.providers.conftest import AddProvider
from tests.providers.rounds import make_rounds
from tests.providers.test_keys_api import HOST, OPENAI, owner, secret, store, to_resolve, to_store
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import key_service_pb2 as pb
from triptych.providers.v1.key_pb2 import Key, KeyState
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.key_service_pb2_grpc import KeyServiceAsyncStub

DAY = 24 * 3600


@pytest.fixture
async def provider(add_provider: AddProvider, fake: FakeOpenAI) -> Provider:
    return await add_provider(type=OPENAI, api_endpoint=fake.url)


def to_rotate(key: Key, api_key: str | None = None, **changes: Any) -> pb.RotateKeyRequest:
    return pb.RotateKeyRequest(key_id=key.id, api_key=api_key or secret(), **changes)


async def rotate(person: Person, key: Key, api_key: str | None = None, **changes: Any) -> pb.RotateKeyResponse:
    return await person.stub(KeyServiceStub).RotateKey(to_rotate(key, api_key, **changes))


async def materials(superuser: Any, key: Key) -> tuple[Any, ...]:
    row = await superuser.fetchrow("SELECT encrypted_api_key, encrypted_dek FROM user_providers WHERE id = $1", key.id)
    return tuple(row)


async def test_the_new_key_takes_over_and_the_old_one_resolves_by_its_id_for_a_day(
    user: Person, provider: Provider, experiments: "KeyServiceAsyncStub"
) -> None:
    values = secret(), secret()
    old = await store(user, provider, values[0], label="mine")
    rotated = await rotate(user, old, values[1], etag=old.etag)
    assert (rotated.key.label, rotated.key.replaces_key_id, rotated.key.owner) == ("mine", old.id, owner(user))
    assert rotated.key.state == KeyState.KEY_STATE_ACTIVE
    assert rotated.previous.state == KeyState.KEY_STATE_ROTATING
    assert rotated.previous.state_reason == f"replaced by key {rotated.key.id}"
    assert rotated.previous.etag != old.etag
    left = rotated.previous.expire_time.seconds - rotated.key.create_time.seconds
    assert DAY - 60 < left < DAY + 60
    assert (await experiments.ResolveKey(to_resolve(user, provider))).api_key == values[1]
    request = to_resolve(user, provider)
    request.key_id = old.id
    assert (await experiments.ResolveKey(request)).api_key == values[0]


async def test_the_old_key_steps_in_while_the_new_one_does_not_work(
    user: Person, provider: Provider, experiments: "KeyServiceAsyncStub"
) -> None:
    value = secret()
    rotated = await rotate(user, await store(user, provider, value))
    await user.stub(KeyServiceStub).RevokeKey(pb.RevokeKeyRequest(key_id=rotated.key.id))
    assert (await experiments.ResolveKey(to_resolve(user, provider))).api_key == value


async def test_after_the_grace_the_old_key_opens_no_more_and_the_next_round_shreds_it(
    user: Person, provider: Provider, experiments: "KeyServiceAsyncStub", superuser: Any, runtime: Runtime
) -> None:
    old = await store(user, provider)
    await rotate(user, old)
    request = to_resolve(user, provider)
    request.key_id = old.id
    await experiments.ResolveKey(request)
    await superuser.execute("UPDATE user_providers SET expire_time = now() WHERE id = $1", old.id)
    with pytest.raises(faults.NotFound) as caught:
        await experiments.ResolveKey(request)
    assert caught.value.reason == "KEY_NOT_FOUND"
    async with make_rounds(runtime) as rounds:
        await rounds.go()
    assert await materials(superuser, old) == (None, None)
    shown = (await user.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=old.id))).key
    assert shown.state == KeyState.KEY_STATE_EXPIRED
    recorded = await superuser.fetchval(
        "SELECT count(*) FROM outbox WHERE entity = $1 AND action = 'providers.key.expire'", f"key:{old.id}"
    )
    assert recorded == 1


async def test_an_end_that_was_set_stays_and_is_no_later_for_the_old_key(user: Person, provider: Provider) -> None:
    request = to_store(provider)
    request.expire_time.GetCurrentTime()
    request.expire_time.seconds += 3600
    old = (await user.stub(KeyServiceStub).StoreKey(request)).key
    assert old.expire_time.seconds == request.expire_time.seconds
    rotated = await rotate(user, old)
    assert rotated.key.expire_time == rotated.previous.expire_time == old.expire_time


async def test_an_end_beyond_all_calendars_is_refused(user: Person, provider: Provider) -> None:
    request = to_store(provider)
    request.expire_time.seconds = 10**15
    with pytest.raises(faults.InvalidArgument) as caught:
        await user.stub(KeyServiceStub).StoreKey(request)
    assert list(caught.value.violations) == ["expire_time"]


async def test_an_end_in_the_past_is_refused(user: Person, provider: Provider) -> None:
    request = to_store(provider)
    request.expire_time.seconds = 1
    with pytest.raises(faults.InvalidArgument):
        await user.stub(KeyServiceStub).StoreKey(request)


async def test_a_new_value_that_the_provider_refuses_or_does_not_judge_changes_nothing(
    user: Person, provider: Provider, fake: FakeOpenAI, experiments: "KeyServiceAsyncStub"
) -> None:
    value = secret()
    old = await store(user, provider, value)
    with pytest.raises(faults.FailedPrecondition) as refused:
        await rotate(user, old, "sk-of-somebody-else")
    assert refused.value.reason == "KEY_REJECTED_BY_PROVIDER"
    fake.mode = "broken"
    with pytest.raises(faults.Unavailable) as unjudged:
        await rotate(user, old)
    assert unjudged.value.reason == "PROVIDER_UNREACHABLE"
    assert (await user.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=old.id))).key == old
    assert (await experiments.ResolveKey(to_resolve(user, provider))).api_key == value


async def test_the_same_value_is_recognised(user: Person, provider: Provider) -> None:
    value = secret()
    old = await store(user, provider, value)
    with pytest.raises(faults.AlreadyExists) as caught:
        await rotate(user, old, value)
    assert (caught.value.reason, caught.value.facts["key_id"]) == ("KEY_EXISTS", old.id)
    assert (await user.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=old.id))).key == old


async def test_nobody_but_its_owner_replaces_a_key(user: Person, admin: Person, provider: Provider) -> None:
    key = await store(user, provider)
    strangers = (admin, admin.colleague(Role.ROLE_USER), user.suite.person(Role.ROLE_ADMIN))
    for stranger in strangers:
        with pytest.raises(faults.NotFound) as caught:
            await rotate(stranger, key)
        assert caught.value.reason == "KEY_NOT_FOUND"
    with pytest.raises(faults.PermissionDenied):
        await rotate(admin.colleague(Role.ROLE_VIEWER), key)


async def test_any_admin_replaces_a_key_of_the_platform_and_it_stays_the_platforms(
    user: Person, admin: Person, provider: Provider, experiments: "KeyServiceAsyncStub"
) -> None:
    old, value = await store(admin, provider, platform=True), secret()
    for stranger in (user, user.suite.person(Role.ROLE_ADMIN)):
        with pytest.raises(faults.NotFound) as caught:
            await rotate(stranger, old)
        assert caught.value.reason == "KEY_NOT_FOUND"
        assert "StoreKey" in caught.value.text
    rotated = await rotate(admin.colleague(Role.ROLE_ADMIN), old, value)
    assert rotated.key.owner == rotated.previous.owner == old.owner
    assert rotated.previous.state == KeyState.KEY_STATE_ROTATING
    request = pb.ResolveKeyRequest(owner=old.owner, provider_id=provider.id, destination_host=old.destination_host)
    assert (await experiments.ResolveKey(request)).api_key == value


async def test_only_a_current_key_is_replaced(user: Person, provider: Provider) -> None:
    old = await store(user, provider)
    rotated = await rotate(user, old)
    with pytest.raises(faults.FailedPrecondition) as replaced:
        await rotate(user, old)
    assert (replaced.value.reason, replaced.value.facts["state"]) == ("KEY_NOT_CURRENT", "rotating")
    with pytest.raises(faults.Aborted) as changed:
        await rotate(user, rotated.key, etag='"999"')
    assert changed.value.reason == "ETAG_MISMATCH"
    await user.stub(KeyServiceStub).RevokeKey(pb.RevokeKeyRequest(key_id=rotated.key.id))
    with pytest.raises(faults.FailedPrecondition) as revoked:
        await rotate(user, rotated.key)
    assert revoked.value.facts["state"] == "revoked"


async def test_of_two_who_replace_at_once_one_does(user: Person, provider: Provider) -> None:
    old = await store(user, provider)
    results = await asyncio.gather(*(rotate(user, old) for _ in range(3)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == [
        "FailedPrecondition",
        "FailedPrecondition",
        "RotateKeyResponse",
    ]


async def test_an_owner_with_five_keys_can_replace_them(user: Person, provider: Provider) -> None:
    keys = [await store(user, provider) for _ in range(5)]
    rotated = await rotate(user, keys[0])
    with pytest.raises(faults.ResourceExhausted) as caught:
        await store(user, provider)
    assert caught.value.reason == "KEY_LIMIT"
    await user.stub(KeyServiceStub).RevokeKey(pb.RevokeKeyRequest(key_id=rotated.key.id))
    await store(user, provider)


async def test_replacing_counts_among_the_attempts(user: Person, provider: Provider) -> None:
    key = await store(user, provider)
    for _ in range(9):
        with pytest.raises(faults.FailedPrecondition):
            await rotate(user, key, "sk-guess-after-guess")
    with pytest.raises(faults.ResourceExhausted) as caught:
        await rotate(user, key)
    assert caught.value.reason == "KEY_ATTEMPTS"


async def test_an_invalid_key_ends_at_once_when_it_is_replaced(
    user: Person, provider: Provider, superuser: Any
) -> None:
    old = await store(user, provider)
    await superuser.execute("UPDATE user_providers SET state = 'invalid' WHERE id = $1", old.id)
    rotated = await rotate(user, old)
    assert rotated.previous.state == KeyState.KEY_STATE_EXPIRED
    assert await materials(superuser, old) == (None, None)


async def test_a_repeated_request_gives_the_first_answer(user: Person, provider: Provider, fake: FakeOpenAI) -> None:
    request = to_rotate(await store(user, provider), request_id=str(uuid.uuid4()))
    stub = user.stub(KeyServiceStub)
    first = await stub.RotateKey(request)
    fake.mode = "broken"
    assert await stub.RotateKey(request) == first


async def test_an_agent_has_keys_of_its_own(suite: Suite, user: Person, provider: Provider) -> None:
    agent = str(uuid.uuid4())
    scopes = "keys.store keys.rotate keys.list keys.validate"
    claims = {"sub": agent, "tid": user.tenant_id, "kind": "agent", "role": 0, "scope": scopes}
    token = suite.issuer.token(claims)
    stub = KeyServiceStub(suite.channel(KeyServiceStub, (("authorization", f"Bearer {token}"),)))
    key = (await stub.StoreKey(to_store(provider))).key
    assert key.owner == Principal(kind=PrincipalKind.PRINCIPAL_KIND_AGENT, id=agent)
    rotated = await stub.RotateKey(to_rotate(key))
    await stub.ValidateKey(pb.ValidateKeyRequest(key_id=rotated.key.id))
    assert len((await stub.ListKeys(pb.ListKeysRequest())).keys) == 2
    assert not (await user.stub(KeyServiceStub).ListKeys(pb.ListKeysRequest())).keys
    with pytest.raises(faults.NotFound):
        await rotate(user, rotated.key)
    with pytest.raises(faults.PermissionDenied):  # a scope that it was not given
        await stub.RevokeKey(pb.RevokeKeyRequest(key_id=key.id))
    asked = pb.ResolveKeyRequest(owner=key.owner, provider_id=provider.id, destination_host=HOST)
    opened = await (await suite.service("experiments", user)).stub(KeyServiceStub).ResolveKey(asked)
    assert opened.key_id == rotated.key.id
