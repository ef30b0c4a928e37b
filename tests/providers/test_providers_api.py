"""ProviderService over the wire."""

import uuid

import pytest

from services.kit import faults
from tests.providers.conftest import AddProvider
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import provider_service_pb2 as pb
from triptych.providers.v1.provider_pb2 import Provider, ProviderType
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub

OPENAI = ProviderType.PROVIDER_TYPE_OPENAI


async def test_a_created_provider_can_be_read_with_its_exact_prices(admin: Person, add_provider: AddProvider) -> None:
    made = await add_provider(
        type=OPENAI, api_endpoint="https://api.openai.com", input_cost_usd_per_1k="0.000000000001"
    )
    assert made.active
    assert made.input_cost_usd_per_1k == "0.000000000001"
    viewer = admin.colleague(Role.ROLE_VIEWER).stub(ProviderServiceStub)
    assert (await viewer.GetProvider(pb.GetProviderRequest(provider_id=made.id))).provider == made


async def test_providers_come_in_order_of_name_page_by_page(admin: Person, add_provider: AddProvider) -> None:
    for name in ("beta", "alpha", "gamma"):
        await add_provider(name=name)
    stub = admin.stub(ProviderServiceStub)
    first = await stub.ListProviders(pb.ListProvidersRequest(page_size=2))
    assert [provider.name for provider in first.providers] == ["alpha", "beta"]
    second = await stub.ListProviders(pb.ListProvidersRequest(page_size=2, page_token=first.next_page_token))
    assert [provider.name for provider in second.providers] == ["gamma"]
    assert not second.next_page_token


async def test_a_name_is_taken_once_in_a_tenant(add_provider: AddProvider) -> None:
    await add_provider(name="taken")
    with pytest.raises(faults.AlreadyExists) as caught:
        await add_provider(name="taken")
    assert caught.value.reason == "PROVIDER_NAME_TAKEN"


@pytest.mark.parametrize(
    ("kind", "endpoint"),
    [
        (OPENAI, "http://api.openai.com"),
        (OPENAI, "https://10.0.0.1"),
        (OPENAI, "https://169.254.169.254"),
        (OPENAI, ""),
        (ProviderType.PROVIDER_TYPE_LOCAL, "https://api.openai.com"),
    ],
)
async def test_an_unsafe_endpoint_is_refused(
    add_provider: AddProvider, kind: "ProviderType.ValueType", endpoint: str
) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await add_provider(type=kind, api_endpoint=endpoint)
    assert caught.value.reason == "ENDPOINT_REFUSED"
    assert caught.value.facts["problem"]


async def test_the_same_request_id_creates_one_provider(admin: Person) -> None:
    provider = Provider(
        name="once", type=ProviderType.PROVIDER_TYPE_LOCAL, model_name="m", max_tokens=1, timeout_seconds=1
    )
    request = pb.CreateProviderRequest(provider=provider, request_id=str(uuid.uuid4()))
    stub = admin.stub(ProviderServiceStub)
    assert await stub.CreateProvider(request) == await stub.CreateProvider(request)


async def test_another_tenants_provider_looks_like_none(suite: Suite, add_provider: AddProvider) -> None:
    made = await add_provider()
    with pytest.raises(faults.NotFound) as caught:
        await suite.person().stub(ProviderServiceStub).GetProvider(pb.GetProviderRequest(provider_id=made.id))
    assert caught.value.reason == "PROVIDER_NOT_FOUND"


async def test_a_user_may_not_create(user: Person) -> None:
    provider = Provider(
        name="no", type=ProviderType.PROVIDER_TYPE_LOCAL, model_name="m", max_tokens=1, timeout_seconds=1
    )
    with pytest.raises(faults.PermissionDenied):
        await user.stub(ProviderServiceStub).CreateProvider(pb.CreateProviderRequest(provider=provider))
