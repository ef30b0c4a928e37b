"""Many sealed keys at once, as the service would have stored them one by one: for tests and benches of whole stocks."""

import base64
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.providers.envelopes import KEK, Binding
from services.providers.owners import Owner
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.providers.v1 import key_service_pb2 as pb

BATCH = 100
HOST = "api.example.com"
COLUMNS = (
    "id tenant_id owner_kind owner_id provider_id label last_four state destination_host encrypted_api_key"
    " encrypted_dek kek_version fingerprint validate_time"
)


@dataclass(frozen=True)
class Stored:
    """One key of the hoard."""

    binding: Binding
    api_key: str
    dek: bytes

    @property
    def request(self) -> pb.ResolveKeyRequest:
        """What opens it."""
        owner = Principal(kind=PrincipalKind.PRINCIPAL_KIND_USER, id=self.binding.owner.id)
        return pb.ResolveKeyRequest(
            owner=owner, provider_id=self.binding.provider_id, destination_host=self.binding.destination_host
        )

    def sealed(self) -> bytes:
        """Nonce, ciphertext and tag."""
        nonce = os.urandom(12)
        return nonce + AESGCM(self.dek).encrypt(nonce, self.api_key.encode(), self.binding.associated_data)


async def fill(superuser: Any, client: Any, tenant_id: str, count: int) -> list[Stored]:
    """Store keys of as many people; `client` may encrypt with the service's key, which the service itself may not."""
    provider_id = await superuser.fetchval(
        "INSERT INTO providers.providers (tenant_id, name, type, model_name, api_endpoint, destination_host,"
        " platform_provided, max_tokens, timeout_seconds) VALUES ($1, $2, 'openai', 'm', $3, $4, false, 1000, 30)"
        " RETURNING id::text",
        tenant_id,
        f"p-{uuid.uuid4()}",
        f"https://{HOST}",
        HOST,
    )
    keys = [_make(tenant_id, provider_id) for _ in range(count)]
    wrapped = [one for batch in _batches(keys) for one in _wrap(client, batch)]
    now = await superuser.fetchval("SELECT now()")
    rows = [_row(key, dek, now) for key, dek in zip(keys, wrapped, strict=True)]
    await superuser.copy_records_to_table(
        "user_providers", schema_name="providers", records=rows, columns=COLUMNS.split()
    )
    await superuser.execute("ANALYZE providers.user_providers")
    return keys


def _make(tenant_id: str, provider_id: str) -> Stored:
    owner = Owner("user", str(uuid.uuid4()))
    return Stored(
        Binding(tenant_id, owner, provider_id, str(uuid.uuid4()), HOST), f"sk-{uuid.uuid4().hex}", os.urandom(32)
    )


def _batches(keys: list[Stored]) -> Iterator[list[Stored]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]


def _wrap(client: Any, keys: list[Stored]) -> list[str]:
    items = [{"plaintext": base64.b64encode(key.dek).decode(), "context": key.binding.context} for key in keys]
    answer = client.adapter.request("post", f"/v1/transit/encrypt/{KEK}", json={"batch_input": items})
    return [item["ciphertext"] for item in answer["data"]["batch_results"]]


def _row(key: Stored, wrapped: str, now: Any) -> tuple[Any, ...]:
    binding = key.binding
    return (
        uuid.UUID(binding.key_id), uuid.UUID(binding.tenant_id), *binding.owner, uuid.UUID(binding.provider_id),
        f"label {binding.key_id}", key.api_key[-4:], "active", binding.destination_host, key.sealed(), wrapped,
        int(wrapped.split(":")[1][1:]), os.urandom(32), now,
    )  # fmt: skip
