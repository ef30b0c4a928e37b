"""What ended stays ended, whoever writes to the table; and what is damaged is nobody's trouble but its owner's."""

import asyncio
import uuid
from typing import Any

import asyncpg
import pytest

from services.kit import faults
from services.kit.server import Runtime
from tests.fakes.openai_server import FakeOpenAI
from tests.providers.conftest import AddProvider
from tests.providers.test_keys_api import OPENAI, secret, store, to_resolve
from tests.suite import Person, Suite
from triptych.providers.v1 import key_service_pb2 as pb
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider

BACK = (
    "UPDATE user_providers SET state = 'active', revoke_time = NULL, expire_time = NULL, encrypted_api_key = $2,"
    " encrypted_dek = $3 WHERE id = $1"
)
ENDS = {
    "revoked": "UPDATE user_providers SET state = 'revoked', revoke_time = now(), encrypted_api_key = NULL,"
    " encrypted_dek = NULL WHERE id = $1",
    "expired": "UPDATE user_providers SET state = 'expired', expire_time = now(), encrypted_api_key = NULL,"
    " encrypted_dek = NULL WHERE id = $1",
}


@pytest.fixture
async def provider(add_provider: AddProvider, fake: FakeOpenAI) -> Provider:
    return await add_provider(type=OPENAI, api_endpoint=fake.url)


@pytest.mark.parametrize("end", ENDS)
async def test_a_key_that_ended_does_not_come_back_from_a_backup(
    user: Person, provider: Provider, superuser: Any, end: str
) -> None:
    key = await store(user, provider)
    old = await superuser.fetchrow("SELECT encrypted_api_key, encrypted_dek FROM user_providers WHERE id = $1", key.id)
    await superuser.execute(ENDS[end], key.id)
    for state in ("active", "rotating", "invalid"):
        with pytest.raises(asyncpg.CheckViolationError, match="does not come back"):
            await superuser.execute(BACK.replace("'active'", f"'{state}'"), key.id, *old)
    revoked = (await user.stub(KeyServiceStub).RevokeKey(pb.RevokeKeyRequest(key_id=key.id))).key
    assert pb.RevokeKeyResponse(key=revoked).key.state == 3  # an expired key may still be revoked


@pytest.mark.parametrize(
    "change",
    [
        "destination_host = 'evil.example'", "owner_id = gen_random_uuid()::text", "provider_id = gen_random_uuid()",
        "tenant_id = gen_random_uuid()", "kek_version = 1", "fingerprint = fingerprint", "label = 'x'",
        "create_time = now()", "replaces_key_id = NULL",
    ],
)  # fmt: skip
async def test_the_service_itself_cannot_say_whose_a_key_is_and_where_it_goes(
    runtime: Runtime, user: Person, provider: Provider, change: str
) -> None:
    key = await store(user, provider)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with runtime.db.begin(tenant=user.tenant_id) as tx:
            await tx.connection.execute(f"UPDATE user_providers SET {change} WHERE id = $1", uuid.UUID(key.id))


async def test_a_wrapping_never_becomes_older(
    runtime: Runtime, user: Person, provider: Provider, superuser: Any
) -> None:
    key = await store(user, provider)
    at = "SELECT encrypted_dek, kek_version FROM user_providers WHERE id = $1"
    newer = (await superuser.fetchval(at, key.id)).replace("vault:v1:", "vault:v7:")
    await superuser.execute(
        "UPDATE user_providers SET encrypted_dek = $2, kek_version = 7 WHERE id = $1", key.id, newer
    )
    stored = []
    for version in (6, 7, 8):
        wrapping = newer.replace("vault:v7:", f"vault:v{version}:")
        async with runtime.db.begin(tenant=user.tenant_id) as tx:
            stored.append(
                await tx.connection.fetchval(
                    "SELECT store_wrappings($1::uuid[], $2::text[], $3::text[])",
                    [uuid.UUID(key.id)], [newer], [wrapping],
                )
            )  # fmt: skip
    assert stored == [0, 1, 1]
    assert await superuser.fetchval("SELECT kek_version FROM user_providers WHERE id = $1", key.id) == 8


@pytest.mark.parametrize("left", [0, 4, 12, 20])
async def test_a_key_that_was_cut_off_harms_nobody_who_asks_at_the_same_time(  # noqa: PLR0917 - fixtures
    user: Person, admin: Person, provider: Provider, suite: Suite, superuser: Any, left: int
) -> None:
    value = secret()
    cut, whole = await store(user, provider), await store(admin, provider, value)
    stub = (await suite.service("experiments", user)).stub(KeyServiceStub)
    for person in (user, admin):
        await stub.ResolveKey(to_resolve(person, provider))
    await superuser.execute(
        "UPDATE user_providers SET encrypted_api_key = substr(encrypted_api_key, 1, $2) WHERE id = $1", cut.id, left
    )
    asked = [stub.ResolveKey(to_resolve(person, provider)) for _ in range(8) for person in (user, admin)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for damaged, good in zip(answers[::2], answers[1::2], strict=True):
        assert isinstance(damaged, faults.Unavailable)
        assert damaged.reason == "DEPENDENCY_UNAVAILABLE"
        assert good == pb.ResolveKeyResponse(key_id=whole.id, api_key=value)
