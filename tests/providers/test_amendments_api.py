"""Changes of the catalogue over the wire: fields by mask, prices in versions, hosts that keys are bound to, the end."""

import asyncio
import uuid
from collections.abc import Awaitable, Coroutine
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.kit import faults
from services.kit.server import Runtime
from tests.fakes.openai_server import FakeOpenAI
from tests.patience import until
from tests.providers.conftest import AddProvider
from tests.providers.rounds import make_rounds
from tests.providers.test_keys_api import OPENAI, store, to_resolve
from tests.providers.test_rotations_api import materials, rotate
from tests.refusals import reason
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import key_service_pb2, provider_service_pb2 as pb, quota_service_pb2
from triptych.providers.v1.key_pb2 import KeyState
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub


async def update(person: Person, provider: Provider, *paths: str, **changes: Any) -> Provider:
    given = Provider(id=provider.id, **changes)
    mask = FieldMask(paths=list(paths)) if paths else None
    stub = person.stub(ProviderServiceStub)
    return (await stub.UpdateProvider(pb.UpdateProviderRequest(provider=given, update_mask=mask))).provider


async def archive(person: Person, provider: Provider, **given: Any) -> Provider:
    request = pb.ArchiveProviderRequest(provider_id=provider.id, **given)
    return (await person.stub(ProviderServiceStub).ArchiveProvider(request)).provider


def to_price(provider: Provider, first: str, second: str, **given: Any) -> pb.SetProviderPriceRequest:
    return pb.SetProviderPriceRequest(
        provider_id=provider.id, input_cost_usd_per_1k=first, output_cost_usd_per_1k=second, **given
    )


async def test_what_the_mask_names_changes_and_nothing_else(admin: Person, add_provider: AddProvider) -> None:
    made = await add_provider(type=OPENAI, api_endpoint="https://api.openai.com", timeout_seconds=30)
    changed = await update(
        admin,
        made,
        "timeout_seconds",
        "max_tokens",
        timeout_seconds=60,
        max_tokens=100,
        model_name="not this",
        etag=made.etag,
    )
    assert (changed.timeout_seconds, changed.max_tokens, changed.model_name) == (60, 100, made.model_name)
    assert changed.etag != made.etag
    assert changed.input_cost_usd_per_1k == made.input_cost_usd_per_1k
    with pytest.raises(faults.Aborted) as caught:
        await update(admin, made, "active", etag=made.etag)
    assert caught.value.reason == "ETAG_MISMATCH"
    assert (await update(admin, made, model_name="newer")).model_name == "newer"


@pytest.mark.parametrize("path", ["type", "input_cost_usd_per_1k", "id", "archive_time", "nonsense"])
async def test_the_mask_names_nothing_that_stays(admin: Person, add_provider: AddProvider, path: str) -> None:
    made = await add_provider()
    with pytest.raises(faults.InvalidArgument) as caught:
        await update(admin, made, path)
    assert caught.value.reason == "UPDATE_MASK_INVALID"


@pytest.mark.parametrize(
    "changes",
    [{"timeout_seconds": 601}, {"max_tokens": 0}, {"name": "No Name"}, {"model_name": ""}, {"model_name": "x" * 201}],
)
async def test_what_could_not_be_created_cannot_come_by_change(
    admin: Person, add_provider: AddProvider, changes: dict[str, Any]
) -> None:
    made = await add_provider()
    with pytest.raises(faults.InvalidArgument):
        await update(admin, made, *changes, **changes)


@pytest.mark.parametrize(
    "endpoint", ["http://api.openai.com", "https://10.0.0.1", "https://169.254.169.254", "https://u@api.openai.com", ""]
)
async def test_an_endpoint_cannot_become_unsafe(admin: Person, add_provider: AddProvider, endpoint: str) -> None:
    made = await add_provider(type=OPENAI, api_endpoint="https://api.openai.com")
    with pytest.raises(faults.InvalidArgument) as caught:
        await update(admin, made, "api_endpoint", api_endpoint=endpoint)
    assert caught.value.reason == "ENDPOINT_REFUSED"


async def test_a_name_is_taken_once(admin: Person, add_provider: AddProvider) -> None:
    await add_provider(name="taken")
    with pytest.raises(faults.AlreadyExists) as caught:
        await update(admin, await add_provider(), name="taken")
    assert caught.value.reason == "PROVIDER_NAME_TAKEN"


async def test_the_host_stays_while_anybody_has_a_key_for_it(
    admin: Person, user: Person, add_provider: AddProvider, fake: FakeOpenAI
) -> None:
    made = await add_provider(type=OPENAI, api_endpoint=fake.url)
    assert (await update(admin, made, api_endpoint="https://api.openai.com")).api_endpoint == "https://api.openai.com"
    await update(admin, made, api_endpoint=fake.url)
    key = await store(user, made)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await update(admin, made, api_endpoint="https://evil.example")
    assert (caught.value.reason, caught.value.facts["host"]) == ("PROVIDER_HOST_IN_USE", "127.0.0.1")
    await update(admin, made, api_endpoint=f"{fake.url}/v1")  # another path of the same host
    await user.stub(KeyServiceStub).RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=key.id))
    await update(admin, made, api_endpoint="https://api.openai.com")


async def test_the_port_stays_like_the_host_because_another_server_may_listen_there(
    admin: Person, user: Person, add_provider: AddProvider, fake: FakeOpenAI
) -> None:
    made = await add_provider(type=OPENAI, api_endpoint=fake.url)
    async with FakeOpenAI() as other:
        await update(admin, made, api_endpoint=other.url)
        await update(admin, made, api_endpoint=fake.url)
        key = await store(user, made)
        with pytest.raises(faults.FailedPrecondition) as caught:
            await update(admin, made, api_endpoint=other.url)
        assert caught.value.reason == "PROVIDER_HOST_IN_USE"
        assert caught.value.facts == {"host": "127.0.0.1", "port": fake.url.rpartition(":")[2]}
        await user.stub(KeyServiceStub).RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=key.id))
        await update(admin, made, api_endpoint=other.url)
        assert other.requests == []


async def test_the_usual_port_is_the_same_whether_it_is_written_or_not(
    admin: Person, user: Person, add_provider: AddProvider, superuser: Any, fake: FakeOpenAI
) -> None:
    made = await add_provider(type=OPENAI, api_endpoint=fake.url)
    await store(user, made)
    for column, value in (("api_endpoint", "https://api.openai.com"), ("destination_host", "api.openai.com")):
        await superuser.execute(f"UPDATE providers SET {column} = $2 WHERE id = $1", made.id, value)
    await update(admin, made, api_endpoint="https://API.openai.com:443/v1")
    with pytest.raises(faults.FailedPrecondition) as caught:
        await update(admin, made, api_endpoint="https://api.openai.com:8443/v1")
    assert caught.value.facts == {"host": "api.openai.com", "port": "443"}


async def begun(storing: Coroutine[Any, Any, Any], fake: FakeOpenAI) -> asyncio.Task[Any]:
    """Begin to store a key, up to where its provider is asked, which takes its time."""
    fake.mode = "slow"
    task = asyncio.create_task(storing)
    await until(lambda: fake.requests)
    return task


async def test_a_provider_that_moves_to_another_port_while_a_key_is_proven_does_not_get_it(
    admin: Person, user: Person, add_provider: AddProvider, fake: FakeOpenAI
) -> None:
    made = await add_provider(type=OPENAI, api_endpoint=fake.url)
    storing = await begun(store(user, made), fake)
    await update(admin, made, api_endpoint="http://127.0.0.1:9")
    fake.released.set()
    assert await reason(storing) == "PROVIDER_CHANGED"


async def test_a_provider_that_moves_while_a_key_is_proven_there_does_not_get_it(
    admin: Person, user: Person, add_provider: AddProvider, fake: FakeOpenAI
) -> None:
    made = await add_provider(type=OPENAI, api_endpoint=fake.url)
    storing = await begun(store(user, made), fake)
    await update(admin, made, api_endpoint="https://api.openai.com")
    fake.released.set()
    assert await reason(storing) == "PROVIDER_CHANGED"


async def test_a_provider_that_is_switched_off_takes_and_opens_no_key(
    admin: Person, user: Person, add_provider: AddProvider, fake: FakeOpenAI, suite: Suite
) -> None:
    made = await add_provider(type=OPENAI, api_endpoint=fake.url)
    key = await store(user, made)
    experiments = (await suite.service("experiments", user)).stub(KeyServiceStub)
    await update(admin, made, "active", active=False)
    calls: list[Awaitable[Any]] = [store(user, made), rotate(user, key), experiments.ResolveKey(to_resolve(user, made))]
    for call in calls:
        with pytest.raises(faults.FailedPrecondition) as caught:
            await call
        assert caught.value.reason == "PROVIDER_INACTIVE"
    await update(admin, made, "active", active=True)
    await experiments.ResolveKey(to_resolve(user, made))


async def test_an_archived_provider_is_read_and_nothing_else_and_its_keys_are_destroyed(  # noqa: PLR0917 - fixtures
    admin: Person,
    user: Person,
    add_provider: AddProvider,
    fake: FakeOpenAI,
    suite: Suite,
    superuser: Any,
    runtime: Runtime,
) -> None:
    made = await add_provider(type=OPENAI, api_endpoint=fake.url)
    key = await store(user, made)
    with pytest.raises(faults.Aborted):
        await archive(admin, made, etag='"999"')
    archived = await archive(admin, made, etag=made.etag)
    assert archived.archive_time.seconds > 0
    assert not archived.active
    assert await archive(admin, made) == archived
    stub = admin.stub(ProviderServiceStub)
    assert (await stub.GetProvider(pb.GetProviderRequest(provider_id=made.id))).provider == archived
    assert not (await stub.ListProviders(pb.ListProvidersRequest())).providers
    assert list((await stub.ListProviders(pb.ListProvidersRequest(show_archived=True))).providers) == [archived]
    experiments = (await suite.service("experiments", user)).stub(KeyServiceStub)
    refused: list[Awaitable[Any]] = [
        store(user, made),
        rotate(user, key),
        experiments.ResolveKey(to_resolve(user, made)),
        update(admin, made, "active", active=True),
        stub.SetProviderPrice(to_price(made, "1", "1")),
    ]
    for call in refused:
        with pytest.raises(faults.FailedPrecondition) as caught:
            await call
        assert caught.value.reason == "PROVIDER_ARCHIVED"
    async with make_rounds(runtime) as rounds:
        await rounds.go()
    shown = (await user.stub(KeyServiceStub).GetKey(key_service_pb2.GetKeyRequest(key_id=key.id))).key
    assert (shown.state, shown.state_reason) == (KeyState.KEY_STATE_REVOKED, "its provider was archived")
    assert await materials(superuser, key) == (None, None)


async def test_prices_have_versions_and_what_was_reserved_is_charged_at_its_own(
    admin: Person, user: Person, add_provider: AddProvider
) -> None:
    made = await add_provider()
    quotas, stub = user.stub(QuotaServiceStub), admin.stub(ProviderServiceStub)
    reserve = quota_service_pb2.ReserveQuotaRequest(
        provider_id=made.id, operation="review", estimated_input_tokens=1000, estimated_output_tokens=1000
    )
    before = (await quotas.ReserveQuota(reserve)).reservation
    priced = await stub.SetProviderPrice(to_price(made, "0.000000000001", "5", etag=made.etag))
    assert (priced.provider.input_cost_usd_per_1k, priced.provider.output_cost_usd_per_1k) == ("0.000000000001", "5")
    assert priced.provider.etag != made.etag
    after = (await quotas.ReserveQuota(reserve)).reservation
    assert (before.estimated_cost_usd, after.estimated_cost_usd) == ("3", "5.000000000001")
    commit = quota_service_pb2.CommitReservationRequest(reservation_id=before.id, input_tokens=1000, output_tokens=1000)
    assert (await quotas.CommitReservation(commit)).reservation.cost_usd == "3"
    viewer = admin.colleague(Role.ROLE_VIEWER).stub(ProviderServiceStub)
    first = await viewer.ListProviderPrices(pb.ListProviderPricesRequest(provider_id=made.id, page_size=1))
    assert list(first.price_versions) == [priced.price_version]
    token = first.next_page_token
    rest = await viewer.ListProviderPrices(
        pb.ListProviderPricesRequest(provider_id=made.id, page_size=1, page_token=token)
    )
    assert [version.output_cost_usd_per_1k for version in rest.price_versions] == ["2"]
    assert not rest.next_page_token


@pytest.mark.parametrize("price", ["-1", "NaN", "1e3", "0.0000000000001", "123456789", "1,5"])
async def test_a_price_is_an_exact_amount(admin: Person, add_provider: AddProvider, price: str) -> None:
    made = await add_provider()
    with pytest.raises(faults.InvalidArgument):
        await admin.stub(ProviderServiceStub).SetProviderPrice(to_price(made, price, "1"))


async def test_the_same_request_id_sets_one_price(admin: Person, add_provider: AddProvider) -> None:
    request = to_price(await add_provider(), "3", "4", request_id=str(uuid.uuid4()))
    stub = admin.stub(ProviderServiceStub)
    assert await stub.SetProviderPrice(request) == await stub.SetProviderPrice(request)
    listed = await stub.ListProviderPrices(pb.ListProviderPricesRequest(provider_id=request.provider_id))
    assert len(listed.price_versions) == 2


async def test_only_an_admin_of_the_tenant_changes_anything(
    user: Person, suite: Suite, add_provider: AddProvider
) -> None:
    made = await add_provider()
    for person, fault in ((user, faults.PermissionDenied), (suite.person(Role.ROLE_ADMIN), faults.NotFound)):
        stub = person.stub(ProviderServiceStub)
        for call in (
            update(person, made, active=False),
            archive(person, made),
            stub.SetProviderPrice(to_price(made, "1", "1")),
        ):
            with pytest.raises(fault):
                await call
    stranger = suite.person().stub(ProviderServiceStub)
    with pytest.raises(faults.NotFound) as caught:
        await stranger.ListProviderPrices(pb.ListProviderPricesRequest(provider_id=made.id))
    assert caught.value.reason == "PROVIDER_NOT_FOUND"
