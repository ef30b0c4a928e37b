"""Envelopes: a key sealed with AES-256-GCM under a data key of its own, which only OpenBao can unwrap.

Both layers are bound to whose it is: the ciphertext by its associated data (version, tenant, owner, provider, key id,
destination host), the wrapping by the context of a derived key (tenant, key id), which unlike associated data can be
re-wrapped. An envelope that was moved to another row, owner or host does not open.
"""

import base64
import binascii
import os
import re
from dataclasses import dataclass

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.kit import faults
from services.kit.db import Row
from services.kit.vault import VaultRefused
from services.providers import owners
from services.providers.guards import Transit
from services.providers.owners import Owner
from services.providers.secrets import Secret

KEK = "providers-kek"
FINGERPRINT_KEY = "providers-fingerprint"
VERSION = 1
NONCE_BYTES = 12
_WRAPPED = re.compile(r"vault:v([1-9][0-9]{0,8}):.+")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Binding:
    """What an envelope belongs to."""

    tenant_id: str
    owner: Owner
    provider_id: str
    key_id: str
    destination_host: str

    @classmethod
    def of(cls, row: Row) -> "Binding":
        """Read it from a key's row."""
        return cls(
            str(row["tenant_id"]), owners.in_row(row), str(row["provider_id"]), str(row["id"]), row["destination_host"]
        )

    @property
    def associated_data(self) -> bytes:
        """Binds the ciphertext."""
        parts = (f"v{VERSION}", self.tenant_id, str(self.owner), self.provider_id, self.key_id, self.destination_host)
        return "|".join(parts).encode()

    @property
    def context(self) -> str:
        """Binds the wrapping."""
        return base64.b64encode(f"{self.tenant_id}|{self.key_id}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A sealed key: nonce, ciphertext and tag; the wrapped data key; the version of the key that wrapped it."""

    encrypted_api_key: bytes
    encrypted_dek: str
    kek_version: int


async def seal(vault: Transit, secret: Secret, binding: Binding) -> Envelope:
    """Seal a key under a new data key, which is forgotten at once."""
    answer = await vault.write(f"transit/datakey/plaintext/{KEK}", context=binding.context, bits=256)
    wrapped = _WRAPPED.fullmatch(answer["ciphertext"])
    if wrapped is None:
        raise ValueError("OpenBao gave a data key in an unknown form")
    dek = Secret(base64.b64decode(answer["plaintext"]))
    try:
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(dek.reveal()).encrypt(nonce, bytes(secret.reveal()), binding.associated_data)
    finally:
        dek.wipe()
    return Envelope(nonce + sealed, answer["ciphertext"], int(wrapped[1]))


async def unwrap(vault: Transit, row: Row) -> Secret:
    """Have OpenBao unwrap the data key of a key's row."""
    binding = Binding.of(row)
    try:
        answer = await vault.write(f"transit/decrypt/{KEK}", ciphertext=row["encrypted_dek"], context=binding.context)
        return Secret(base64.b64decode(answer["plaintext"], validate=True))
    except (VaultRefused, binascii.Error):
        raise _damaged(binding) from None


def unseal(row: Row, dek: Secret) -> Secret:
    """Open the ciphertext of a key's row."""
    binding, sealed = Binding.of(row), row["encrypted_api_key"]
    try:
        return Secret(AESGCM(dek.reveal()).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], binding.associated_data))
    except (InvalidTag, ValueError):  # what is too short, or not 256 bits, is damaged too
        raise _damaged(binding) from None


async def fingerprint(vault: Transit, secret: Secret, *, tenant_id: str, owner: Owner, provider_type: str) -> bytes:
    """Give what a key is recognised by. Without OpenBao's key nobody can test a guess against it."""
    text = f"{tenant_id}|{owner}|{provider_type}|".encode() + secret.reveal()
    answer = await vault.write(
        f"transit/hmac/{FINGERPRINT_KEY}", algorithm="sha2-256", input=base64.b64encode(text).decode()
    )
    return base64.b64decode(answer["hmac"].rpartition(":")[2])


def _damaged(binding: Binding) -> faults.DependencyUnavailable:
    """Tampering, a lost key version or a wrong policy: none of them passes by itself, so somebody must be told."""
    _log.error("envelope does not open", key_id=binding.key_id, tenant=binding.tenant_id)
    return faults.DependencyUnavailable("the key cannot be opened; tell the operator", dependency="openbao")
