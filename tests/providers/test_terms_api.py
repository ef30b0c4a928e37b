"""Terms that a server keeps between reservations: what changed at another server counts from the next one on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from services.kit import faults
from services.kit.db import Transaction
from services.kit.server import Runtime
from services.providers import admissions, reservations, terms
from tests.providers.quotas import limit, principal, reserve, to_reserve, windows
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    provider_service_pb2 as provider_pb,
    quota_service_pb2 as pb,
    tenant_ai_config_service_pb2 as config_pb,
)
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub
from triptych.providers.v1.quota_pb2 import Quota
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.tenant_ai_config_pb2 import PriceOverride, TenantAiConfig
from triptych.providers.v1.tenant_ai_config_service_pb2_grpc import TenantAiConfigServiceStub

if TYPE_CHECKING:  # known to type checkers alone
    from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub


class Place(NamedTuple):
    """Somebody at a server that has seen their terms; whatever the admin does is done at another server."""

    admin: Person
    user: Person
    provider: Provider
    stub: "QuotaServiceAsyncStub"


@pytest.fixture
async def place(suite: Suite, admin: Person, user: Person, provider: Provider) -> Place:
    async with suite.instead("providers", allow_loopback_endpoints=True):
        stub = user.stub(QuotaServiceStub)
        for _ in range(2):
            await reserve(stub, provider)
    return Place(admin, user, provider, stub)


async def held(place: Place) -> str:
    return (await windows(place.user))["daily_requests"][1]


async def configure(place: Place, **changes: object) -> None:
    stub = place.admin.stub(TenantAiConfigServiceStub)
    etag = (await stub.GetTenantAiConfig(config_pb.GetTenantAiConfigRequest())).config.etag
    request = config_pb.UpdateTenantAiConfigRequest(config=TenantAiConfig(etag=etag, **changes))  # type: ignore[arg-type]
    request.update_mask.paths.extend(changes)
    await stub.UpdateTenantAiConfig(request)


async def switch_off(place: Place) -> None:
    stub = place.admin.stub(ProviderServiceStub)
    request = provider_pb.UpdateProviderRequest(provider=Provider(id=place.provider.id, etag=place.provider.etag))
    request.update_mask.paths.append("active")
    await stub.UpdateProvider(request)


async def archive(place: Place) -> None:
    request = provider_pb.ArchiveProviderRequest(provider_id=place.provider.id, etag=place.provider.etag)
    await place.admin.stub(ProviderServiceStub).ArchiveProvider(request)


async def lower(place: Place) -> None:
    await limit(place.admin, place.user, daily_requests=2)


async def lower_for_all(place: Place) -> None:
    await configure(place, daily_requests=2)


async def forbid(place: Place) -> None:
    await configure(place, ai_enabled=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lower, "QUOTA_EXCEEDED"),
        (lower_for_all, "QUOTA_EXCEEDED"),
        (forbid, "AI_DISABLED"),
        (switch_off, "PROVIDER_INACTIVE"),
        (archive, "PROVIDER_ARCHIVED"),
    ],
)
async def test_what_is_forbidden_elsewhere_is_refused_here_at_once_and_holds_nothing(
    place: Place, change: Callable[[Place], Awaitable[None]], reason: str
) -> None:
    await change(place)
    with pytest.raises(faults.Fault) as refusal:
        await reserve(place.stub, place.provider)
    assert refusal.value.reason == reason
    assert await held(place) == "2"


async def test_what_is_allowed_elsewhere_is_let_in_here_at_once(place: Place) -> None:
    await lower(place)
    with pytest.raises(faults.ResourceExhausted):
        await reserve(place.stub, place.provider)
    quota = Quota(owner=principal(place.user), daily_requests=3)
    quota.etag = (await place.user.stub(QuotaServiceStub).GetQuota(pb.GetQuotaRequest())).quota.etag
    await place.admin.stub(QuotaServiceStub).SetQuota(pb.SetQuotaRequest(quota=quota))
    await reserve(place.stub, place.provider)
    assert await held(place) == "3"


async def test_nobody_is_refused_for_what_they_tried_under_the_terms_before(
    monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    """The hold under the old terms goes back before the look anew, however long that takes."""
    find = reservations.state_of_hold

    async def find_slowly(tx: Transaction, hold_id: str) -> str | None:
        await asyncio.sleep(0.3)
        return await find(tx, hold_id)

    monkeypatch.setattr(reservations, "state_of_hold", find_slowly)
    monkeypatch.setattr(admissions, "LONGEST_WAIT", 60.0)
    await limit(place.admin, place.user, daily_requests=3)
    await reserve(place.stub, place.provider)
    assert await held(place) == "3"


async def test_a_new_price_counts_from_the_next_reservation_on(place: Place) -> None:
    request = provider_pb.SetProviderPriceRequest(
        provider_id=place.provider.id, input_cost_usd_per_1k="3", output_cost_usd_per_1k="4"
    )
    await place.admin.stub(ProviderServiceStub).SetProviderPrice(request)
    assert (await reserve(place.stub, place.provider, 1000)).estimated_cost_usd == "3"


async def test_a_price_of_the_tenants_own_counts_from_the_next_reservation_on(place: Place) -> None:
    override = PriceOverride(provider_id=place.provider.id, input_cost_usd_per_1k="5", output_cost_usd_per_1k="5")
    await configure(place, price_overrides=[override])
    assert (await reserve(place.stub, place.provider, 1000)).estimated_cost_usd == "5"


async def test_who_became_a_guest_has_a_guests_quota(suite: Suite, place: Place) -> None:
    guest = replace(place.user, role=Role.ROLE_GUEST)
    with pytest.raises(faults.Fault) as refusal:
        await reserve(guest.stub(QuotaServiceStub), place.provider)
    assert refusal.value.reason in ("QUOTA_EXCEEDED", "CALLER_NOT_PERMITTED")
    assert await held(place) == "2"


async def test_the_terms_of_one_are_not_anothers(place: Place, runtime: Runtime) -> None:
    await limit(place.admin, place.user, daily_requests=2)
    other = place.admin.colleague(Role.ROLE_USER)
    await reserve(other.stub(QuotaServiceStub), place.provider)
    with pytest.raises(faults.ResourceExhausted):
        await reserve(place.stub, place.provider)


async def test_an_ordinary_reservation_reads_no_terms(
    monkeypatch: pytest.MonkeyPatch, user: Person, provider: Provider
) -> None:
    stub = user.stub(QuotaServiceStub)
    await reserve(stub, provider)
    monkeypatch.setattr(terms, "see", None)  # whoever looked would fail
    await reserve(stub, provider)
    monkeypatch.undo()
    assert (await windows(user))["daily_requests"] == ("0", "2")


async def test_a_repeated_request_looks_for_its_answer_first(user: Person, provider: Provider) -> None:
    stub = user.stub(QuotaServiceStub)
    request = to_reserve(provider, request_id="0197a3a0-0000-7000-8000-00000000aaaa")
    answers = [await stub.ReserveQuota(request) for _ in range(3)]
    assert len({answer.reservation.id for answer in answers}) == 1
    assert (await windows(user))["daily_requests"] == ("0", "1")
