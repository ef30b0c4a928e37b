"""The key that wraps data keys: a new version, which versions are in use, and when an old one may go.

What is here needs the operator's identity at OpenBao, which can neither use the key nor let it out. An old version goes
only when no data key is wrapped by it any more and a day has passed, both since there is a newer one and since the last
data key was re-wrapped: what was read before that is in nobody's hands then.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.kit import clock, outbox
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database
from services.kit.vault import Vault
from services.providers.envelopes import KEK

GRACE = timedelta(hours=24)
ENTITY = f"kek:{KEK}"


@dataclass(frozen=True, slots=True)
class Standing:
    """Versions at OpenBao, and how many data keys are wrapped by each."""

    newest: int
    created: datetime
    """The newest version."""
    oldest_accepted: int
    oldest_kept: int
    """Older ones are destroyed; 0 or 1: none is."""
    keys: dict[int, int]
    last_rewrap_time: datetime | None

    @property
    def older(self) -> int:
        """Data keys that are not wrapped by the newest version."""
        return sum(count for version, count in self.keys.items() if version < self.newest)

    def retirable(self, now: datetime, grace: timedelta = GRACE) -> str:
        """Say why older versions must stay; empty when they may go."""
        if self.older:
            return f"{self.older} data keys are wrapped by an older version: `triptych keys rewrap`"
        last = max(self.created, self.last_rewrap_time or self.created)
        if now < last + grace:
            return f"the grace ends at {last + grace:%Y-%m-%d %H:%M} UTC"
        return ""


class TooEarly(Exception):
    """Older versions must stay; the text says why."""


async def rotate(db: Database, vault: Vault, *, by: str) -> Standing:
    """Make a new version. New data keys are wrapped by it from now on; nothing else changes."""
    await vault.write(f"transit/keys/{KEK}/rotate")
    standing = await stand(db, vault)
    await record(db, "providers.kek.rotate", by=by, version=standing.newest)
    return standing


async def retire(db: Database, vault: Vault, *, by: str, destroy: bool, grace: timedelta = GRACE) -> Standing:
    """Have OpenBao refuse older versions, and destroy them if that is wanted: then no backup brings them back."""
    standing = await stand(db, vault)
    if problem := standing.retirable(clock.now(), grace):
        raise TooEarly(problem)
    newest = standing.newest
    await vault.write(f"transit/keys/{KEK}/config", min_decryption_version=newest, min_encryption_version=newest)
    await record(db, "providers.kek.retire", by=by, version=newest)
    if destroy:
        await vault.write(f"transit/keys/{KEK}/trim", min_available_version=newest)
        await record(db, "providers.kek.destroy", by=by, version=newest)
    return await stand(db, vault)


async def stand(db: Database, vault: Vault) -> Standing:
    """Ask OpenBao and the database."""
    key = await vault.read(f"transit/keys/{KEK}")
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        rows = await tx.connection.fetch("SELECT * FROM wrapping_standing()")
    newest = int(key["latest_version"])
    times = [row["last_rewrap_time"] for row in rows if row["last_rewrap_time"] is not None]
    return Standing(
        newest=newest,
        created=datetime.fromtimestamp(int(key["keys"][str(newest)]), UTC),
        oldest_accepted=int(key["min_decryption_version"]),
        oldest_kept=int(key["min_available_version"]),
        keys={row["kek_version"]: row["keys"] for row in rows if row["keys"]},
        last_rewrap_time=max(times, default=None),
    )


async def record(db: Database, action: str, *, by: str, **details: object) -> None:
    """Write what an operator did into the audit log, under no tenant."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        await outbox.record(tx, ENTITY, {"by": by, **details}, action=action, actor=("service", "providers-operator"))
