"""Data keys in memory: bounded in time, number and uses; fetched once; and what happens while OpenBao is away."""

import asyncio
import pickle
import uuid
from collections.abc import AsyncIterator
from typing import Any

import hvac
import pytest

from services.kit import faults
from services.kit.server import Runtime
from services.kit.vault import Vault
from services.providers import envelopes
from services.providers.deks import Deks
from services.providers.envelopes import Binding
from services.providers.owners import Owner
from services.providers.secrets import Secret
from tests.fakes.openai_server import FakeOpenAI
from tests.patience import within
from tests.providers.conftest import AddProvider
from tests.providers.test_keys_api import secret, store, to_resolve, to_store
from tests.suite import Person, Suite
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub

Sealed = dict[str, Any]


class CountingVault(Vault):
    """OpenBao, and how often it was asked."""

    asked = 0

    async def write(self, path: str, **data: Any) -> dict[str, Any]:
        self.asked += 1
        return await super().write(path, **data)


@pytest.fixture
async def vault(runtime: Runtime) -> AsyncIterator[CountingVault]:
    client = CountingVault(runtime.settings)
    yield client
    client.close()


async def seal(vault: Vault, value: str) -> Sealed:
    """Seal a key and give it as a row."""
    binding = Binding(str(uuid.uuid4()), Owner("user", str(uuid.uuid4())), str(uuid.uuid4()), str(uuid.uuid4()), "h")
    envelope = await envelopes.seal(vault, Secret(value), binding)
    return {
        "id": uuid.UUID(binding.key_id),
        "tenant_id": binding.tenant_id,
        "owner_kind": "user",
        "owner_id": binding.owner.id,
        "provider_id": binding.provider_id,
        "destination_host": "h",
        "encrypted_api_key": envelope.encrypted_api_key,
        "encrypted_dek": envelope.encrypted_dek,
    }


async def test_what_was_sealed_opens_and_each_sealing_is_new(vault: CountingVault) -> None:
    row = await seal(vault, "sk-12345678")
    dek = await envelopes.unwrap(vault, row)  # type: ignore[arg-type]
    assert len(dek) == 32
    assert envelopes.unseal(row, dek).reveal_text() == "sk-12345678"  # type: ignore[arg-type]
    assert b"sk-12345678" not in row["encrypted_api_key"]
    assert (await seal(vault, "sk-12345678"))["encrypted_dek"] != row["encrypted_dek"]


async def test_a_wrapped_data_key_does_not_unwrap_for_another_key(vault: CountingVault) -> None:
    row, other = await seal(vault, "sk-12345678"), await seal(vault, "sk-12345678")
    moved = other | {"encrypted_dek": row["encrypted_dek"]}
    with pytest.raises(faults.Unavailable):
        await envelopes.unwrap(vault, moved)  # type: ignore[arg-type]


async def test_many_who_miss_at_once_ask_once(vault: CountingVault) -> None:
    row = await seal(vault, "sk-12345678")
    vault.asked = 0
    deks = Deks(vault)
    await asyncio.gather(*(deks.fetch(row) for _ in range(50)))  # type: ignore[arg-type]
    assert vault.asked == 1
    assert deks.find(row["id"]) == deks.find(row["id"])


async def test_entries_end_by_use_number_and_time(vault: CountingVault) -> None:
    rows = [await seal(vault, "sk-12345678") for _ in range(3)]
    by_use, by_number, by_time = Deks(vault, uses=2), Deks(vault, entries=2), Deks(vault, seconds=-60.0)
    for row in rows:
        for deks in (by_use, by_number, by_time):
            await deks.fetch(row)  # type: ignore[arg-type]
    assert [by_use.find(rows[0]["id"]) is None for _ in range(3)] == [False, False, True]
    assert [by_number.find(row["id"]) is None for row in rows] == [True, False, False]
    assert by_time.find(rows[0]["id"]) is None
    by_number.clear()
    assert len(by_number) == 0


async def test_what_is_given_is_not_what_is_kept(vault: CountingVault) -> None:
    row = await seal(vault, "sk-12345678")
    deks = Deks(vault)
    await deks.fetch(row)  # type: ignore[arg-type]
    given = deks.find(row["id"])
    assert given is not None
    given.wipe()
    kept = deks.find(row["id"])
    assert kept is not None
    assert envelopes.unseal(row, kept).reveal_text() == "sk-12345678"  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pickle.dumps(kept)


async def test_without_openbao_warm_keys_open_and_everything_else_says_so_quickly(
    user: Person, admin: Person, add_provider: AddProvider, fake: FakeOpenAI, suite: Suite
) -> None:
    provider = await add_provider(type="PROVIDER_TYPE_OPENAI", api_endpoint=fake.url)
    api_key = secret()
    await store(user, provider, api_key)
    await store(admin, provider)
    fake.requests.clear()
    async with suite.instead("providers", allow_loopback_endpoints=True) as lonely:
        experiments = (await suite.service("experiments", user)).stub(KeyServiceStub)
        stub = user.stub(KeyServiceStub)
    assert (await experiments.ResolveKey(to_resolve(user, provider))).api_key == api_key
    lonely.vault._client = hvac.Client(url="http://127.0.0.1:1", timeout=2)
    assert (await experiments.ResolveKey(to_resolve(user, provider))).api_key == api_key
    for call in (experiments.ResolveKey(to_resolve(admin, provider)), stub.StoreKey(to_store(provider))):
        with pytest.raises(faults.Unavailable) as caught:
            await within(call)
        assert (caught.value.reason, caught.value.facts["dependency"]) == ("DEPENDENCY_UNAVAILABLE", "openbao")
    assert not fake.requests  # a key that cannot be sealed is not sent around either
