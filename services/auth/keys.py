"""Signing keys: Ed25519 pairs, private halves sealed by OpenBao, one that signs and one published ahead of its use.

A generation signs for `key_days`; verifiers go on accepting it for a day, longer than any token lives. Replicas race
for a generation by its primary key, so there is one of each. A private half is erased when it has stopped signing.
"""

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Column, DateTime, Integer, LargeBinary, MetaData, Table, Text, select, update
from sqlalchemy.dialects.postgresql import insert

from services.kit import clock, faults, outbox
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Statement, param, params
from services.kit.tokens import SigningKey
from services.kit.vault import Vault, VaultRefused

KEPT = timedelta(hours=24)
"""How long signatures count after a key stopped signing: the life of a token, caches and clocks, with much to spare."""
LOOK_SECONDS = 600.0
SEAL = "auth-seal"
_log = structlog.get_logger()

table = Table(
    "signing_keys",
    MetaData(),
    Column("generation", Integer, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("sealed_private_key", Text),
    Column("not_before", DateTime(timezone=True), nullable=False),
    Column("sign_until", DateTime(timezone=True), nullable=False),
    Column("not_after", DateTime(timezone=True), nullable=False),
)
_insert = Statement(
    insert(table)
    .values(**params("generation key_id public_key sealed_private_key not_before sign_until not_after"))
    .on_conflict_do_nothing(index_elements=["generation"])
    .returning(table.c.generation)
)
_list = Statement(select(table).order_by(table.c.generation))
_erase = Statement(
    update(table)
    .where(table.c.sign_until < param("now"), table.c.sealed_private_key.is_not(None))
    .values(sealed_private_key=None)
)


@dataclass(frozen=True, slots=True)
class Signer:
    """A key in memory, and when it signs."""

    key_id: str
    private: Ed25519PrivateKey
    not_before: datetime
    sign_until: datetime


class Keys:
    """The signing keys of the installation, as one process holds them."""

    def __init__(self, *, db: Database, vault: Vault, days: int) -> None:
        self._db = db
        self._vault = vault
        self._period = timedelta(days=days)
        self._signers: dict[int, Signer] = {}

    def current(self) -> Signer:
        """Give the key to sign with now."""
        now = clock.now()
        for signer in self._signers.values():
            if signer.not_before <= now < signer.sign_until:
                return signer
        raise faults.DependencyUnavailable("no signing key is at hand; retry", dependency="openbao")

    async def published(self) -> list[SigningKey]:
        """Give the public keys that verifiers need now."""
        now = clock.now()
        return [
            SigningKey(row["key_id"], row["public_key"], row["not_before"].timestamp(), row["not_after"].timestamp())
            for row in await self._rows()
            if row["not_after"] > now
        ]

    async def load(self) -> None:
        """Make the keys that are due, unseal those that will sign, erase those that have."""
        rows = await self._rows()
        while (wanted := due(rows, clock.now(), self._period)) is not None:
            await self._create(*wanted)
            rows = await self._rows()
        now = clock.now()
        live = [row for row in rows if row["sign_until"] > now]
        self._signers = {
            row["generation"]: self._signers.get(row["generation"]) or await self._unseal(row) for row in live
        }
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            await tx.run(_erase, now=now)

    async def keep(self) -> None:
        """Rotate for as long as the process runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.load()
            except (faults.Fault, VaultRefused) as error:
                _log.error("signing keys were not looked after", error=type(error).__name__, text=str(error))

    async def _rows(self) -> list[Row]:
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            return await tx.all(_list)

    async def _create(self, generation: int, not_before: datetime) -> None:
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        sealed = await self._vault.write(
            f"transit/encrypt/{SEAL}", plaintext=base64.b64encode(private.private_bytes_raw()).decode()
        )
        values = {
            "key_id": hashlib.sha256(public).hexdigest()[:16],
            "public_key": public,
            "not_before": not_before,
            "sign_until": not_before + self._period,
            "not_after": not_before + self._period + KEPT,
        }
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            made = await tx.one(_insert, generation=generation, sealed_private_key=sealed["ciphertext"], **values)
            if made is not None:  # otherwise another replica was faster, and its key is as good
                details = {"generation": generation, "public_key": public.hex()}
                await outbox.record(
                    tx,
                    f"signing_key:{values['key_id']}",
                    details,
                    action="auth.signing_key.create",
                    actor=("service", "auth"),
                )

    async def _unseal(self, row: Row) -> Signer:
        opened = await self._vault.write(f"transit/decrypt/{SEAL}", ciphertext=row["sealed_private_key"])
        private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(opened["plaintext"]))
        return Signer(row["key_id"], private, row["not_before"], row["sign_until"])


def due(rows: Sequence[Row], now: datetime, period: timedelta) -> tuple[int, datetime] | None:
    """Say which generation must be made, and when it begins: one that signs now first, then the one after it."""
    newest = max((row["generation"] for row in rows), default=0)
    if not any(row["not_before"] <= now < row["sign_until"] for row in rows):
        return newest + 1, now
    last: datetime = max(row["sign_until"] for row in rows)
    return (newest + 1, last) if last <= now + period else None
