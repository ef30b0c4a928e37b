"""What the database itself refuses to the service's own role."""

import uuid
from typing import Any

import asyncpg
import pytest

from services.kit.server import Runtime
from tests.fakes.openai_server import FakeOpenAI
from tests.providers.conftest import AddProvider
from tests.providers.test_keys_api import store
from tests.suite import Person


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM user_providers",
        "DELETE FROM reservations",
        "UPDATE usage_events SET cost_usd = 0",
        "DELETE FROM usage_events",
        "UPDATE price_versions SET input_cost_usd_per_1k = 0",
        "UPDATE cost_alerts SET threshold_percent = 80",
        "TRUNCATE user_quotas",
        "DELETE FROM tenant_ai_config",
        "DELETE FROM provider_health",
        "UPDATE usage_charges SET create_time = now()",
        "SELECT * FROM outbox",
    ],
)
async def test_the_service_cannot_rewrite_what_happened(runtime: Runtime, admin: Person, sql: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with runtime.db.begin(tenant=admin.tenant_id) as tx:
            await tx.connection.execute(sql)


async def test_without_a_tenant_or_in_another_there_are_no_rows(
    runtime: Runtime, user: Person, add_provider: AddProvider, fake: FakeOpenAI
) -> None:
    await store(user, await add_provider(type="PROVIDER_TYPE_OPENAI", api_endpoint=fake.url))
    for tenant in ("", str(uuid.uuid4())):
        async with runtime.db.begin(tenant=tenant) as tx:
            for table in ("providers", "user_providers", "price_versions"):
                assert await tx.connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_a_revoked_key_cannot_keep_its_material_nor_a_live_one_lose_it(
    user: Person, add_provider: AddProvider, fake: FakeOpenAI, superuser: Any
) -> None:
    key = await store(user, await add_provider(type="PROVIDER_TYPE_OPENAI", api_endpoint=fake.url))
    for change in ("state = 'revoked', revoke_time = now()", "encrypted_dek = NULL", "encrypted_api_key = NULL"):
        with pytest.raises(asyncpg.CheckViolationError):
            await superuser.execute(f"UPDATE user_providers SET {change} WHERE id = $1", key.id)
