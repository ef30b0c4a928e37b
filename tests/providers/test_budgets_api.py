"""What a tenant as a whole may use: the switch, the budgets, prices and roles."""

import asyncio
import uuid
from typing import Any

import pytest

from services.kit import faults
from services.kit.settings import SettingsInvalid
from services.providers.counters import Counters
from tests.providers.budgets import configure, configured, hold, use
from tests.providers.conftest import AddProvider
from tests.providers.quotas import patiently, to_reserve
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    quota_service_pb2 as quota_pb,
    tenant_ai_config_pb2,
)
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub


@pytest.mark.parametrize(
    "changes", [{"local_endpoint": "ftp://x"}, {"local_endpoint": "http://x/?key=1"}, {"health_check_seconds": -1}]
)
def test_settings_that_cannot_be_meant_stop_the_start(suite: Suite, changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsInvalid):
        suite.settings("providers", **changes)


async def test_a_tenant_that_never_set_anything_may_use_everything(admin: Person, provider: Provider) -> None:
    answer = await configured(admin)
    assert answer.config.ai_enabled
    assert not answer.windows
    await hold(admin, provider)


async def test_a_change_keeps_what_it_does_not_name(admin: Person) -> None:
    first = await configure(admin, "monthly_cost_usd", "daily_requests", monthly_cost_usd="1.50", daily_requests=7)
    assert (first.ai_enabled, first.monthly_cost_usd, first.daily_requests) == (True, "1.5", 7)
    second = await configure(admin, "ai_enabled", "daily_requests", ai_enabled=False)
    assert (second.ai_enabled, second.monthly_cost_usd, second.HasField("daily_requests")) == (False, "1.5", False)
    assert (await configured(admin)).config == second
    with pytest.raises(faults.Aborted) as caught:
        await configure(admin, "ai_enabled", etag=first.etag, ai_enabled=True)
    assert caught.value.reason == "ETAG_MISMATCH"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"monthly_cost_usd": "99999999"}, "REQUEST_INVALID"), ({"daily_requests": -1}, "REQUEST_INVALID"),
        ({"monthly_cost_usd": "NaN"}, "REQUEST_INVALID"),
        ({"price_overrides": [{"provider_id": str(uuid.uuid4())}]}, "PROVIDER_NOT_FOUND"),
        ({"tier_overrides": [{"role": 3}, {"role": 3}]}, "REQUEST_INVALID"),
    ],
)  # fmt: skip
async def test_a_configuration_out_of_shape_is_refused(admin: Person, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(faults.Fault) as caught:
        await configure(admin, *changes, **changes)
    assert caught.value.reason == reason


async def test_only_admins_see_and_change_it(user: Person) -> None:
    for call in (configured(user), configure(user, "ai_enabled", ai_enabled=False)):
        with pytest.raises(faults.PermissionDenied):
            await call


async def test_the_switch_refuses_everything_at_once(admin: Person, user: Person, provider: Provider) -> None:
    held = await hold(user, provider)
    await configure(admin, "ai_enabled", ai_enabled=False)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await hold(user, provider)
    assert caught.value.reason == "AI_DISABLED"
    request = quota_pb.CommitReservationRequest(reservation_id=held.id, input_tokens=1)
    await user.stub(QuotaServiceStub).CommitReservation(request)  # what is under way ends
    await configure(admin, "ai_enabled", ai_enabled=True)
    await hold(user, provider)


async def test_a_role_may_use_the_providers_that_are_named_for_it(
    admin: Person, user: Person, provider: Provider, add_provider: AddProvider
) -> None:
    other = await add_provider()
    entry = tenant_ai_config_pb2.TierOverride(role=Role.ROLE_USER, provider_ids=[other.id])
    await configure(admin, "tier_overrides", tier_overrides=[entry])
    with pytest.raises(faults.PermissionDenied) as caught:
        await hold(user, provider)
    assert caught.value.reason == "PROVIDER_NOT_ALLOWED"
    await hold(user, other)
    await hold(admin, provider)


async def test_the_tenants_price_takes_the_place_of_the_catalogues(admin: Person, provider: Provider) -> None:
    price = tenant_ai_config_pb2.PriceOverride(provider_id=provider.id, input_cost_usd_per_1k="0.5")
    await configure(admin, "price_overrides", price_overrides=[price])
    assert (await use(admin, provider, 1000)).cost_usd == "0.5"


async def test_the_budget_is_everybodys_together(admin: Person, user: Person, provider: Provider) -> None:
    await configure(admin, "daily_requests", "monthly_cost_usd", daily_requests=2, monthly_cost_usd="100")
    await hold(admin, provider)
    await use(user, provider)
    for person in (admin, user, admin.colleague(Role.ROLE_USER)):
        with pytest.raises(faults.ResourceExhausted) as caught:
            await hold(person, provider)
        assert (caught.value.reason, caught.value.facts["window"]) == ("QUOTA_EXCEEDED", "tenant_daily_requests")
        assert caught.value.retry_after is not None
    shown = {window.name: (window.committed, window.held) for window in (await configured(admin)).windows}
    assert shown == {"daily_requests": ("1", "1"), "monthly_cost_usd": ("0.1", "0.1")}


async def test_of_two_hundred_of_ten_people_as_many_are_admitted_as_the_tenant_may(
    admin: Person, provider: Provider, counters: Counters
) -> None:
    await configure(admin, "daily_requests", daily_requests=40)
    people = [admin.colleague(Role.ROLE_ADMIN) for _ in range(10)]

    async def ask(person: Person) -> str:
        request = to_reserve(provider, 1, request_id=str(uuid.uuid4()))
        answer = await patiently(lambda: person.stub(QuotaServiceStub).ReserveQuota(request))
        return answer.facts["window"] if isinstance(answer, faults.Fault) else ""

    answers = await asyncio.gather(*(ask(person) for person in people for _ in range(20)))
    assert answers.count("") == 40
    assert set(answers) == {"", "tenant_daily_requests"}
