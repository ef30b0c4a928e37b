"""KeyService over the wire, with a real provider on loopback, real OpenBao, PostgreSQL and Valkey."""

import asyncio
import json
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.kit import clock, faults
from services.kit.server import Runtime
from tests.fakes.openai_server import RETRY_SECONDS, FakeOpenAI, Mode
from tests.providers.conftest import AddProvider
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import key_service_pb2 as pb
from triptych.providers.v1.key_pb2 import Key, KeyState
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider, ProviderType

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.key_service_pb2_grpc import KeyServiceAsyncStub

OPENAI = ProviderType.PROVIDER_TYPE_OPENAI
HOST = "127.0.0.1"


def secret() -> str:
    return f"sk-demo-{uuid.uuid4().hex}"


def owner(person: Person) -> Principal:
    return Principal(kind=PrincipalKind.PRINCIPAL_KIND_USER, id=person.id)


def to_store(provider: Provider, api_key: str | None = None, **changes: Any) -> pb.StoreKeyRequest:
    label = changes.pop("label", f"label {uuid.uuid4()}")
    return pb.StoreKeyRequest(provider_id=provider.id, label=label, api_key=api_key or secret(), **changes)


def to_resolve(person: Person, provider: Provider, host: str = HOST) -> pb.ResolveKeyRequest:
    return pb.ResolveKeyRequest(owner=owner(person), provider_id=provider.id, destination_host=host)


async def store(person: Person, provider: Provider, api_key: str | None = None, **changes: Any) -> Key:
    return (await person.stub(KeyServiceStub).StoreKey(to_store(provider, api_key, **changes))).key


@pytest.fixture
async def provider(add_provider: AddProvider, fake: FakeOpenAI) -> Provider:
    return await add_provider(type=OPENAI, api_endpoint=fake.url)


async def test_a_stored_key_shows_four_characters_and_opens_for_a_service(
    user: Person, provider: Provider, experiments: "KeyServiceAsyncStub"
) -> None:
    api_key = secret()
    key = await store(user, provider, api_key)
    assert key.state == KeyState.KEY_STATE_ACTIVE
    assert key.last_four == api_key[-4:]
    assert (key.owner, key.destination_host, key.kek_version) == (owner(user), HOST, 1)
    opened = await experiments.ResolveKey(to_resolve(user, provider))
    assert (opened.key_id, opened.api_key) == (key.id, api_key)
    read = (await user.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=key.id))).key
    used, made = read.last_use_time, read.create_time
    assert used.seconds % 60 == 0 or used == made  # to the minute, and not before the key was there
    assert used.ToNanoseconds() >= made.ToNanoseconds() > 0


async def test_the_provider_is_really_asked(user: Person, provider: Provider, fake: FakeOpenAI) -> None:
    api_key = secret()
    await store(user, provider, api_key)
    assert [(request.path, request.key) for request in fake.requests] == [("/v1/models", api_key)]


@pytest.mark.parametrize("kind", ["OPENAI_COMPATIBLE", "HUGGINGFACE", "ANTHROPIC"])
async def test_each_type_of_provider_accepts_a_good_key_and_refuses_a_bad_one(
    user: Person, add_provider: AddProvider, fake: FakeOpenAI, kind: str
) -> None:
    fake.mode = "anthropic" if kind == "ANTHROPIC" else "well"
    provider = await add_provider(type=f"PROVIDER_TYPE_{kind}", api_endpoint=f"{fake.url}/")
    await store(user, provider)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await store(user, provider, "sk-of-somebody-else")
    assert caught.value.reason == "KEY_REJECTED_BY_PROVIDER"


async def test_a_key_that_the_provider_refuses_is_not_stored(user: Person, provider: Provider) -> None:
    with pytest.raises(faults.FailedPrecondition) as caught:
        await store(user, provider, "sk-of-somebody-else")
    assert (caught.value.reason, caught.value.facts["status"]) == ("KEY_REJECTED_BY_PROVIDER", "401")
    assert not (await user.stub(KeyServiceStub).ListKeys(pb.ListKeysRequest())).keys


@pytest.mark.parametrize("mode", ["garbage", "broken", "busy", "redirect", "walled", "endless"])
async def test_a_provider_that_answers_anything_else_leaves_the_key_unjudged(
    user: Person, provider: Provider, fake: FakeOpenAI, mode: Mode
) -> None:
    fake.mode = mode
    with pytest.raises(faults.Unavailable) as caught:
        await store(user, provider)
    assert caught.value.reason == "PROVIDER_UNREACHABLE"
    assert len(fake.requests) == 1  # a redirect is not followed
    if mode == "busy":
        assert caught.value.retry_after is not None
        assert caught.value.retry_after.total_seconds() == RETRY_SECONDS


async def test_a_provider_that_is_slow_is_unreachable(
    user: Person, add_provider: AddProvider, fake: FakeOpenAI
) -> None:
    fake.mode = "slow"
    provider = await add_provider(type=OPENAI, api_endpoint=fake.url, timeout_seconds=1)
    with pytest.raises(faults.Unavailable) as caught:
        await store(user, provider)
    assert (caught.value.reason, caught.value.facts["problem"]) == ("PROVIDER_UNREACHABLE", "timeout")


async def test_a_local_provider_takes_no_key(user: Person, add_provider: AddProvider) -> None:
    with pytest.raises(faults.FailedPrecondition) as caught:
        await store(user, await add_provider())
    assert caught.value.reason == "PROVIDER_TAKES_NO_KEY"


async def test_a_provider_that_is_not_there_takes_no_key(user: Person) -> None:
    with pytest.raises(faults.NotFound) as caught:
        await store(user, Provider(id=str(uuid.uuid4())))
    assert caught.value.reason == "PROVIDER_NOT_FOUND"


async def test_the_same_key_or_label_is_stored_once_and_the_fault_names_the_first(
    user: Person, provider: Provider
) -> None:
    api_key = secret()
    first = await store(user, provider, api_key, label="mine")
    for request in (to_store(provider, api_key), to_store(provider, label="mine")):
        with pytest.raises(faults.AlreadyExists) as caught:
            await user.stub(KeyServiceStub).StoreKey(request)
        assert (caught.value.reason, caught.value.facts["key_id"]) == ("KEY_EXISTS", first.id)


async def test_one_key_may_serve_two_models_of_a_provider_and_two_owners(
    user: Person, admin: Person, add_provider: AddProvider, fake: FakeOpenAI
) -> None:
    api_key = secret()
    models = [await add_provider(type=OPENAI, api_endpoint=fake.url, model_name=name) for name in ("a", "b")]
    stored = [await store(person, model, api_key) for person in (user, admin) for model in models]
    assert len({key.id for key in stored}) == 4


async def test_a_repeated_request_gives_the_first_answer_though_the_provider_is_gone(
    user: Person, provider: Provider, fake: FakeOpenAI
) -> None:
    request = to_store(provider, request_id=str(uuid.uuid4()))
    stub = user.stub(KeyServiceStub)
    first = await stub.StoreKey(request)
    fake.mode = "broken"
    assert await stub.StoreKey(request) == first


async def test_five_keys_are_the_limit_also_for_those_who_race(user: Person, provider: Provider) -> None:
    for _ in range(3):
        await store(user, provider)
    results = await asyncio.gather(*(store(user, provider) for _ in range(4)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, faults.ResourceExhausted)]
    assert [fault.reason for fault in refused] == ["KEY_LIMIT", "KEY_LIMIT"]
    keys = (await user.stub(KeyServiceStub).ListKeys(pb.ListKeysRequest())).keys
    assert len(keys) == 5
    await user.stub(KeyServiceStub).RevokeKey(pb.RevokeKeyRequest(key_id=keys[0].id))
    await store(user, provider)


async def test_ten_attempts_an_hour_are_the_limit(user: Person, provider: Provider) -> None:
    for _ in range(10):
        with pytest.raises(faults.FailedPrecondition):
            await store(user, provider, "sk-guess-after-guess")
    with pytest.raises(faults.ResourceExhausted) as caught:
        await store(user, provider)
    assert caught.value.reason == "KEY_ATTEMPTS"
    assert caught.value.retry_after is not None
    assert 3000 < caught.value.retry_after.total_seconds() <= 3600


async def test_everybody_sees_their_own_keys_and_an_admin_the_tenants(
    user: Person, admin: Person, provider: Provider
) -> None:
    mine, theirs = await store(user, provider), await store(admin, provider)
    listed = [
        [key.id for key in (await person.stub(KeyServiceStub).ListKeys(pb.ListKeysRequest())).keys]
        for person in (user, admin)
    ]
    assert listed == [[mine.id], [theirs.id, mine.id]]
    assert (await admin.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=mine.id))).key == mine
    with pytest.raises(faults.NotFound) as caught:
        await user.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=theirs.id))
    assert caught.value.reason == "KEY_NOT_FOUND"
    page = await admin.stub(KeyServiceStub).ListKeys(pb.ListKeysRequest(page_size=1))
    request = pb.ListKeysRequest(page_size=1, page_token=page.next_page_token)
    rest = await admin.stub(KeyServiceStub).ListKeys(request)
    assert [key.id for key in (*page.keys, *rest.keys)] == [theirs.id, mine.id]


async def test_a_revoked_key_is_shredded_and_opens_no_more(
    user: Person, provider: Provider, experiments: "KeyServiceAsyncStub", superuser: Any, runtime: Runtime
) -> None:
    key = await store(user, provider)
    await experiments.ResolveKey(to_resolve(user, provider))
    stub = user.stub(KeyServiceStub)
    revoked = (await stub.RevokeKey(pb.RevokeKeyRequest(key_id=key.id))).key
    assert revoked.state == KeyState.KEY_STATE_REVOKED
    assert revoked.revoke_time.seconds > 0
    assert (await stub.RevokeKey(pb.RevokeKeyRequest(key_id=key.id))).key == revoked
    row = await superuser.fetchrow("SELECT encrypted_api_key, encrypted_dek FROM user_providers WHERE id = $1", key.id)
    assert tuple(row) == (None, None)
    told = await superuser.fetchval(
        "SELECT payload->'changes' FROM outbox WHERE action = 'providers.key.revoke' AND entity = $1"
        " ORDER BY event_id LIMIT 1",
        f"key:{key.id}",
    )
    assert json.loads(told)["state"] == {"old": "active", "new": "revoked"}
    assert json.loads(told).keys() == {"state", "state_reason", "revoke_time"}
    with pytest.raises(faults.NotFound) as caught:
        await experiments.ResolveKey(to_resolve(user, provider))
    assert caught.value.reason == "KEY_NOT_FOUND"


async def test_a_key_opens_for_its_owner_provider_and_host_alone(  # noqa: PLR0917 - fixtures
    user: Person, admin: Person, provider: Provider, experiments: "KeyServiceAsyncStub", suite: Suite, superuser: Any
) -> None:
    key = await store(user, provider)
    stranger = (await suite.service("experiments", suite.person())).stub(KeyServiceStub)
    other = Provider(id=str(uuid.uuid4()))
    wrong = [
        experiments.ResolveKey(to_resolve(admin, provider)),
        experiments.ResolveKey(to_resolve(user, other)),
        experiments.ResolveKey(to_resolve(user, provider, "evil.example")),
        stranger.ResolveKey(to_resolve(user, provider)),
    ]
    for call in wrong:
        with pytest.raises(faults.NotFound) as caught:
            await call
        assert caught.value.reason == "KEY_NOT_FOUND"
    await superuser.execute("UPDATE user_providers SET expire_time = now() WHERE id = $1", key.id)
    with pytest.raises(faults.NotFound):
        await experiments.ResolveKey(to_resolve(user, provider))
    shown = (await user.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=key.id))).key
    assert shown.state == KeyState.KEY_STATE_EXPIRED


@pytest.mark.parametrize("column", ["destination_host", "owner_id", "encrypted_api_key"])
async def test_an_envelope_that_was_tampered_with_does_not_open(  # noqa: PLR0917 - fixtures
    user: Person, admin: Person, provider: Provider, suite: Suite, superuser: Any, column: str
) -> None:
    key = await store(user, provider)
    request = to_resolve(user, provider)
    if column == "destination_host":
        request.destination_host = "evil.example"
        await superuser.execute("UPDATE user_providers SET destination_host = 'evil.example' WHERE id = $1", key.id)
    elif column == "owner_id":
        request.owner.id = admin.id
        await superuser.execute("UPDATE user_providers SET owner_id = $2 WHERE id = $1", key.id, admin.id)
    else:
        await superuser.execute(
            "UPDATE user_providers SET encrypted_api_key = set_byte(encrypted_api_key, 20,"
            " 255 - get_byte(encrypted_api_key, 20)) WHERE id = $1",
            key.id,
        )
    stub = (await suite.service("production", admin)).stub(KeyServiceStub)
    with pytest.raises(faults.Unavailable) as caught:
        await stub.ResolveKey(request)
    assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"


async def test_every_opening_is_audited(
    user: Person, provider: Provider, experiments: "KeyServiceAsyncStub", superuser: Any
) -> None:
    key = await store(user, provider)
    for _ in range(3):
        await experiments.ResolveKey(to_resolve(user, provider))
    rows = await superuser.fetch(
        "SELECT payload FROM outbox WHERE entity = $1 AND action = 'providers.key.resolve'", f"key:{key.id}"
    )
    assert len(rows) == 3
    assert all('"service": "experiments"' in row["payload"] for row in rows)


async def test_nobody_but_named_services_opens_keys(user: Person, provider: Provider, suite: Suite) -> None:
    await store(user, provider)
    for stub in (user.stub(KeyServiceStub), (await suite.service("projects", user)).stub(KeyServiceStub)):
        with pytest.raises(faults.PermissionDenied):
            await stub.ResolveKey(to_resolve(user, provider))


async def test_a_viewer_stores_no_key(admin: Person, provider: Provider) -> None:
    with pytest.raises(faults.PermissionDenied):
        await store(admin.colleague(Role.ROLE_VIEWER), provider)


async def test_a_revoked_key_ends_when_it_was_revoked_and_not_later(user: Person, provider: Provider) -> None:
    ends = Timestamp()
    ends.FromDatetime(clock.now() + timedelta(days=30))
    key = await store(user, provider, expire_time=ends)
    assert key.expire_time == ends
    stub = user.stub(KeyServiceStub)
    revoked = (await stub.RevokeKey(pb.RevokeKeyRequest(key_id=key.id))).key
    assert revoked.expire_time == revoked.revoke_time
    assert (await stub.GetKey(pb.GetKeyRequest(key_id=key.id))).key == revoked
    endless = await store(user, provider)
    ended = (await stub.RevokeKey(pb.RevokeKeyRequest(key_id=endless.id))).key
    assert not ended.HasField("expire_time")


async def test_a_key_was_not_used_before_it_was_there(user: Person, provider: Provider, superuser: Any) -> None:
    key = await store(user, provider)
    used = "UPDATE user_providers SET last_use_time = create_time + $2::interval WHERE id = $1"
    for shift, later in ((timedelta(seconds=-30), False), (timedelta(hours=1), True)):
        await superuser.execute(used, key.id, shift)
        read = (await user.stub(KeyServiceStub).GetKey(pb.GetKeyRequest(key_id=key.id))).key
        assert (read.last_use_time.ToNanoseconds() > key.create_time.ToNanoseconds()) is later
        assert read.last_use_time.ToNanoseconds() >= key.create_time.ToNanoseconds()
