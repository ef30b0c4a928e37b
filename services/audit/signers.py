"""The signer: states what each log is, about once a second where there is news, with a key that never leaves OpenBao.

It signs what is committed, and only what begins with everything that it signed before. When OpenBao is down, appends
go on and the lag is logged.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import structlog

from services.audit import checkpoints, heads, logs, merkle, overrides, tiles, verifier
from services.audit.envelopes import SUPER_TENANT, text_of
from services.audit.verifier import Bad, compose_note, extends, log_name
from services.kit import clock, faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Transaction
from services.kit.vault import Vault, VaultRefused

KEY = "audit-checkpoint"
SIDE_BY_SIDE = 4
FAILURES = (
    faults.Fault,
    VaultRefused,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What passes by itself, or is told to whoever reads the service's own log."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is about to be signed."""

    log_id: str
    override: int
    size: int
    root: bytes
    note: str
    sign_time: datetime


class Signer:
    """Signs checkpoints."""

    def __init__(self, *, db: Database, vault: Vault, origin: str, seconds: float) -> None:
        self._db = db
        self._vault = vault
        self.origin = origin
        self._seconds = seconds
        self._keys: dict[int, bytes] = {}
        self._remembered: dict[tuple[int, str], int] = {}
        """Size that this process signed last, per log: one that is rewound with its checkpoints is not signed again.
        Under the number of the override since: what an operator accepted ends what was remembered before."""
        self._refused: dict[str, str] = {}

    async def run(self, anchor: Callable[[], Awaitable[None]]) -> None:
        """Sign for as long as the process serves, and anchor what was signed."""
        while True:
            try:
                await self.sign_news()
                await anchor()
            except FAILURES as error:
                _log.warning("checkpoints wait", error=type(error).__name__, text=str(error))
            await asyncio.sleep(self._seconds)

    async def sign_news(self) -> None:
        """Sign every log that has entries which no checkpoint covers."""
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            rows = await tx.connection.fetch("SELECT tenant_id, size FROM logs_with_news()")
        waiting = [str(row["tenant_id"]) for row in rows]
        while waiting:
            now, waiting = waiting[:SIDE_BY_SIDE], waiting[SIDE_BY_SIDE:]
            results = await asyncio.gather(*(self._attempt(tenant_id) for tenant_id in now), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    _log.warning("checkpoint lag", logs_waiting=len(rows))
                    raise result

    async def cover(self, tenant_id: str) -> None:
        """Sign the committed head of a log unless it is signed; Bad when it does not begin with what was."""
        keys = await self.keys()
        async with self._db.begin(tenant=tenant_id) as tx:
            draft = await self._draft(tx, keys)
        if draft is None:
            return
        signature, version = await self._sign(draft.note)
        public_key = (await self.keys(version))[version]
        signed = verifier.Checkpoint(draft.log_id, draft.size, draft.root, draft.note, signature, public_key)
        signed.check(keys=[public_key], origin=self.origin)
        async with self._db.begin(tenant=tenant_id) as tx:
            await checkpoints.store(
                tx,
                size=draft.size,
                root=draft.root,
                note=draft.note,
                signature=signature,
                key_version=version,
                public_key=public_key,
                sign_time=draft.sign_time,
            )
        mine = (draft.override, tenant_id)
        self._remembered[mine] = max(draft.size, self._remembered.get(mine, 0))

    async def keys(self, version: int = 0) -> dict[int, bytes]:
        """Give the public keys, by version; asked for once, and again when a version is new."""
        if not self._keys or (version and version not in self._keys):
            answer = await self._vault.read(f"transit/keys/{KEY}")
            held = {int(number): base64.b64decode(key["public_key"]) for number, key in answer["keys"].items()}
            self._keys = held
        return self._keys

    async def _attempt(self, tenant_id: str) -> None:
        try:
            await self.cover(tenant_id)
        except Bad as bad:
            if self._refused.get(tenant_id) != bad.text:  # said once, not every second
                self._refused[tenant_id] = bad.text
                _log.error("checkpoint refused", tenant=tenant_id, verdict=bad.verdict, finding=bad.text)

    async def _draft(self, tx: Transaction, keys: dict[int, bytes]) -> _Draft | None:
        # What was signed is asked for before the checkpoints are looked at: another round may store one meanwhile.
        listed = await heads.newest(tx) if tx.tenant_id != SUPER_TENANT else None
        override = await overrides.newest(tx)
        # Whoever cut a log may have taken its checkpoints as well; then what is listed is compared instead.
        before = listed if listed is not None and listed["size"] <= await overrides.cut(tx) else None
        remembered = self._remembered.get((override.number, tx.tenant_id), 0)
        known = max(remembered, listed["size"] if listed is not None and before is None else 0)
        last = await checkpoints.newest(tx)
        head = await logs.head(tx)
        size = head["size"] if head is not None else 0
        _compare_sizes(known, last["size"] if last is not None else 0, size)
        if head is None or not size or (last is not None and last["size"] == size):
            return None
        if void := await overrides.void(tx, size):
            raise Bad("unanchored", f"it had {void} entries, and is signed again when it has more: it was cut")
        try:
            root, last_leaf = await tiles.hashes(tx, [merkle.Span(0, size), merkle.Span(size - 1, size)])
            if last is not None:
                await self._compare_trees(tx, last, keys, size, root)
            if before is not None and await tiles.root(tx, before["size"]) != before["root"]:
                raise Bad("tampered", f"the tree does not begin with the {before['size']} entries that were listed")
        except merkle.TileMissing as missing:
            raise Bad("tampered", str(missing)) from None
        if last_leaf != head["last_leaf"]:
            raise Bad("tampered", f"the tree does not end with the last of the {size} entries")
        now = clock.now()
        above = tx.tenant_id == SUPER_TENANT
        log_id, follows = (override.log_id, override.follows) if above else (log_name(tx.tenant_id), "")
        note = compose_note(
            origin=self.origin, log_id=log_id, size=size, root=root, signed_at=text_of(now), follows=follows
        )
        return _Draft(log_id, override.number, size, root, note, now)

    async def _compare_trees(self, tx: Transaction, last: Row, keys: dict[int, bytes], size: int, root: bytes) -> None:
        """Check that the last checkpoint is ours and that the tree still begins with it."""
        checkpoints.statement(last).check(keys=keys.values(), origin=self.origin)
        proof = await tiles.hashes(tx, merkle.consistency(last["size"], size))
        if not extends(old_size=last["size"], old_root=last["root"], size=size, root=root, hashes=proof):
            raise Bad("tampered", f"the tree does not begin with the {last['size']} entries that were signed")

    async def _sign(self, note: str) -> tuple[bytes, int]:
        answer = await self._vault.write(f"transit/sign/{KEY}", input=base64.b64encode(note.encode()).decode())
        _, version, signature = str(answer["signature"]).split(":")
        return base64.b64decode(signature), int(version.removeprefix("v"))


def _compare_sizes(known: int, signed: int, size: int) -> None:
    if signed < known:
        raise Bad("incomplete", f"a checkpoint over {known} entries was signed and is gone")
    if size < signed:
        raise Bad("incomplete", f"a checkpoint was signed over {signed} entries, and the log has {size}")
