"""A superuser who changes the log, and an installation of one's own to do that in."""

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from services.audit import merkle
from services.audit.envelopes import SUPER_TENANT
from services.audit.verifier import ORIGIN, compose_head, leaf_hash, log_name
from tests.audit.events import Log, log_of, processes
from tests.conftest import copy_database
from tests.suite import Suite, superuser_of
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

GUARDS = {
    "audit_log": ("no_change",),
    "dedup": ("no_change",),
    "checkpoints": ("no_change",),
    "heads": ("no_change",),
    "cosignatures": ("no_change",),
    "head": ("only_growth", "no_deletion"),
    "tiles": ("only_growth", "no_deletion"),
}


class Intruder:
    """A superuser."""

    def __init__(self, connection: asyncpg.Connection, tenant_id: str) -> None:
        self.connection = connection
        self.tenant_id = tenant_id

    @asynccontextmanager
    async def unguarded(self) -> AsyncIterator[None]:
        """Disable the guards, and leave no trace of that."""
        await self.connection.execute("SET event_triggers = off")
        async with self.connection.transaction():
            # Appends begin at the head: waiting for them there, and keeping them there, no lock below can deadlock.
            await self.connection.execute("LOCK TABLE audits.head IN ACCESS EXCLUSIVE MODE")
            for table, triggers in GUARDS.items():
                for trigger in triggers:
                    await self.connection.execute(f"ALTER TABLE audits.{table} DISABLE TRIGGER {trigger}")
            yield
            for table, triggers in GUARDS.items():
                for trigger in triggers:
                    await self.connection.execute(f"ALTER TABLE audits.{table} ENABLE ALWAYS TRIGGER {trigger}")

    async def run(self, *statements: str, **values: Any) -> None:
        """Run statements against this tenant's rows; $1 is the tenant."""
        async with self.unguarded():
            for statement in statements:
                await self.connection.execute(statement, uuid.UUID(self.tenant_id), *values.values())

    async def rows(self) -> list[asyncpg.Record]:
        """Read the whole log."""
        return await self.connection.fetch(
            "SELECT * FROM audits.audit_log WHERE tenant_id = $1 ORDER BY seq", uuid.UUID(self.tenant_id)
        )

    async def rewrite(self, begin: int, *, keep_tree: bool = False) -> None:
        """Change the payload of an entry and make everything after it fit again: chain, leaves, tree, head."""
        rows = await self.rows()
        previous, leaves = "", [row["leaf"] for row in rows[:begin]]
        async with self.unguarded():
            for row in rows[begin:]:
                body = json.loads(row["body"])
                if row["seq"] == begin:
                    body["payload"] = {"name": "never happened"}
                else:
                    body["prev_hash"] = previous
                text = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
                previous = leaf_hash(text).hex()
                leaves.append(bytes.fromhex(previous))
                await self.connection.execute(
                    "UPDATE audits.audit_log SET body = $3, leaf = $4 WHERE tenant_id = $1 AND seq = $2",
                    row["tenant_id"], row["seq"], text, leaves[-1],
                )  # fmt: skip
            await self._head(leaves)
            if not keep_tree:
                await self._tree(leaves)

    async def rewind(self, size: int) -> None:
        """Cut the log to a size: entries, ids, tree, head and checkpoints."""
        rows = await self.rows()
        tenant = uuid.UUID(self.tenant_id)
        async with self.unguarded():
            await self.connection.execute(
                "DELETE FROM audits.audit_log WHERE tenant_id = $1 AND seq >= $2", tenant, size
            )
            await self.connection.execute("DELETE FROM audits.dedup WHERE tenant_id = $1 AND seq >= $2", tenant, size)
            leaves = [row["leaf"] for row in rows[:size]]
            await self._head(leaves)
            await self._tree(leaves)
            await self.connection.execute("DELETE FROM audits.checkpoints WHERE tenant_id = $1", tenant)

    async def forget_checkpoints(self) -> None:
        """Delete all checkpoints."""
        await self.run("DELETE FROM audits.checkpoints WHERE tenant_id = $1")

    async def forget_heads(self) -> None:
        """Take this log's heads out of the super-log, and make that fit again: places, tree, head, checkpoints."""
        tenant, above = uuid.UUID(self.tenant_id), uuid.UUID(SUPER_TENANT)
        async with self.unguarded():
            await self.connection.execute("DELETE FROM audits.heads WHERE tenant_id = $1", tenant)
            rows = await self.connection.fetch("SELECT * FROM audits.heads ORDER BY seq")
            leaves = [
                leaf_hash(
                    compose_head(
                        origin=ORIGIN, log_id=log_name(str(row["tenant_id"])), size=row["size"], root=row["root"]
                    )
                )
                for row in rows
            ]
            for seq, row in enumerate(rows):
                await self.connection.execute("UPDATE audits.heads SET seq = $2 WHERE seq = $1", row["seq"], seq)
            await self._head(leaves, above)
            await self._tree(leaves, above)
            for table in ("checkpoints", "cosignatures"):
                await self.connection.execute(f"DELETE FROM audits.{table} WHERE tenant_id = $1", above)

    async def _head(self, leaves: Sequence[bytes], tenant: uuid.UUID | None = None) -> None:
        await self.connection.execute(
            "UPDATE audits.head SET size = $2, last_leaf = $3 WHERE tenant_id = $1",
            tenant or uuid.UUID(self.tenant_id), len(leaves), leaves[-1],
        )  # fmt: skip

    async def _tree(self, leaves: Sequence[bytes], tenant: uuid.UUID | None = None) -> None:
        tenant = tenant or uuid.UUID(self.tenant_id)
        await self.connection.execute("DELETE FROM audits.tiles WHERE tenant_id = $1", tenant)
        for key, hashes in merkle.Edge(0, {}).extend(leaves).items():
            await self.connection.execute(
                "INSERT INTO audits.tiles VALUES ($1, $2, $3, $4)", tenant, key.level, key.number, hashes
            )


@dataclass
class Place:
    """Servers on a database and with a witness of their own: what happens to it happens to no other test."""

    suite: Suite
    folder: Path
    log: Log
    intruder: Intruder

    @property
    def database(self) -> str:
        """Its name."""
        return self.suite.database

    async def restart(self, **changes: Any) -> Log:
        """Stop the service and start another, which remembers nothing; give the log as it shows it."""
        await self.suite.runtimes.pop("audit").stop()
        return await self.start(**changes)

    async def start(self, **changes: Any) -> Log:
        """Start the service."""
        await self.suite.start("audit", **changes)
        before = self.log
        self.log = await log_of(self.suite, self.suite.person(Role.ROLE_ADMIN, tenant_id=before.tenant_id))
        self.log.count, self.log.events = before.count, before.events
        return self.log

    async def expect(self, verdict: "pb.LogVerdict.ValueType", *texts: str) -> pb.VerifyLogResponse:
        """Verify and compare."""
        return await expect(self.log, verdict, *texts)


async def expect(log: Log, verdict: "pb.LogVerdict.ValueType", *texts: str) -> pb.VerifyLogResponse:
    """Verify the log; the finding must have these texts in it."""
    result = await log.verify()
    assert result.verdict == verdict, result.finding
    for text in texts:
        assert text in result.finding, result.finding
    return result


@asynccontextmanager
async def place(suite: Suite, folder: Path, *, size: int = 10, **changes: Any) -> AsyncIterator[Place]:
    """An installation whose log has so many signed and witnessed entries."""
    database = f"{suite.database}_{uuid.uuid4().hex[:8]}"
    copy_database(suite.backends, database)
    async with processes(suite, folder, database=database) as other:
        await other.start("audit", **changes)
        log = await log_of(other, other.person(Role.ROLE_ADMIN))
        await log.grow(size)
        await expect(log, pb.LOG_VERDICT_OK)
        try:
            async with superuser_of(suite.backends, database) as connection:
                yield Place(other, folder, log, Intruder(connection, log.tenant_id))
        finally:
            await other.stop()
            async with superuser_of(suite.backends) as server:
                await server.execute(f"DROP DATABASE {database} WITH (FORCE)")
