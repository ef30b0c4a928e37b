"""The quarantine schema as its roles see it: rows written by hand, around the service."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import orjson

from services.governance.quarantine import seals
from services.kit import canonical
from tests.suite import Suite

APP = "triptych_quarantine_app"
OWNER = "triptych_quarantine_owner"
CONFIGURATION = {"model": "small", "temperature": 0.2}


@asynccontextmanager
async def role(suite: Suite, name: str, tenant_id: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect as the service's role, or become the schema's owner, in a tenant."""
    login = APP if name == APP else "triptych_migrator"
    connection = await asyncpg.connect(
        host="127.0.0.1",
        port=suite.backends.postgres.port,
        user=login,
        password=suite.backends.password(login),
        database=suite.database,
        server_settings={"timezone": "UTC"},
    )
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
    )
    if name == OWNER:
        await connection.execute(f"SET ROLE {OWNER}")
    await connection.execute("SET search_path = quarantine")
    await connection.execute("SELECT set_config('app.tenant', $1, false)", tenant_id)
    try:
        yield connection
    finally:
        await connection.close()


async def insert(connection: Any, table: str, **values: Any) -> asyncpg.Record:
    """Insert one row."""
    columns = ", ".join(values)
    marks = ", ".join(f"${number + 1}" for number in range(len(values)))
    row: asyncpg.Record | None = await connection.fetchrow(
        f"INSERT INTO {table} ({columns}) VALUES ({marks}) RETURNING *",
        *values.values(),
    )
    assert row is not None
    return row


class Hand:
    """Writes what the service writes, and on demand what it must not."""

    def __init__(self, connection: Any, tenant_id: str) -> None:
        self.connection = connection
        self.tenant_id = tenant_id

    async def request(self, **changes: Any) -> asyncpg.Record:
        """Insert a pending request."""
        configuration = CONFIGURATION | {"seed": str(uuid.uuid4())}
        values = {
            "tenant_id": self.tenant_id,
            "project_id": uuid.uuid4(),
            "version_id": uuid.uuid4(),
            "configuration": configuration,
            "configuration_hash": canonical.digest("test", configuration).hex(),
            "reason": "regression",
            "explanation": "accuracy fell on the second day",
            "evidence": {"metrics": {"accuracy": 0.5}},
            "cool_down": timedelta(0),
            "permanent": False,
            "requested_by": uuid.uuid4(),
        }
        return await insert(self.connection, "quarantine_requests", **(values | changes))

    async def approve(self, request: asyncpg.Record, **changes: Any) -> asyncpg.Record:
        """Update a request to approved; the record must follow in the same transaction."""
        values = {"decided_by": uuid.uuid4(), "decision_reason": "seen", "record_id": uuid.uuid4()} | changes
        row: asyncpg.Record | None = await self.connection.fetchrow(
            "UPDATE quarantine_requests SET state = 'approved', decided_by = $2, decision_reason = $3, record_id = $4,"
            " decide_time = now() WHERE id = $1 RETURNING *",
            request["id"],
            *values.values(),
        )
        assert row is not None
        return row

    async def seal(self, approved: asyncpg.Record, **changes: Any) -> asyncpg.Record:
        """Insert the record of an approved request at the end of the chain, with its disposition."""
        await self.connection.execute(
            "INSERT INTO chain_heads (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING", self.tenant_id
        )
        head = await self.connection.fetchrow("SELECT position, seal FROM chain_heads")
        now: datetime = await self.connection.fetchval("SELECT clock_timestamp()")
        names = "tenant_id project_id version_id experiment_id configuration_hash configuration reason explanation"
        copied = (*names.split(), "evidence", "permanent", "requested_by", "decision_reason")
        values = {name: approved[name] for name in copied} | {
            "id": approved["record_id"],
            "request_id": approved["id"],
            "position": head["position"] + 1,
            "cool_down_end_time": None if approved["permanent"] else now + approved["cool_down"],
            "quarantined_by": approved["decided_by"],
            "quarantine_time": now,
        }
        values |= {"previous_seal": head["seal"], "seal": seals.of(values, head["seal"])} | changes
        record = await insert(self.connection, "quarantine_records", **values)
        await self.connection.execute(
            "UPDATE chain_heads SET position = $1, seal = $2", record["position"], record["seal"]
        )
        await insert(
            self.connection,
            "dispositions",
            tenant_id=self.tenant_id,
            record_id=record["id"],
            sequence=1,
            previous_disposition="new",
            disposition="quarantined",
            note="seen",
            actor_id=uuid.uuid4(),
        )
        return record

    async def sealed(self, **changes: Any) -> asyncpg.Record:
        """Seal a record as the service does: in one transaction, and its request completed after it."""
        async with self.connection.transaction():
            approved = await self.approve(await self.request(**changes))
            record = await self.seal(approved)
        await self.connection.execute(
            "UPDATE quarantine_requests SET state = 'completed', complete_time = now() WHERE id = $1", approved["id"]
        )
        return record

    async def end(self, agreed: Any, *, disposition: str, outcome: str, pending: bool) -> None:
        """End an approved re-evaluation with its disposition."""
        async with self.connection.transaction():
            await self.connection.execute(
                "UPDATE reevaluation_requests SET state = 'completed', evaluation_id = uuidv7(), outcome = $2,"
                " result = '{}', completed_by = uuidv7(), complete_time = now(), review_pending = $3 WHERE id = $1",
                uuid.UUID(agreed.id),
                outcome,
                pending,
            )
            last = await self.connection.fetchrow(
                "SELECT sequence, disposition FROM dispositions WHERE record_id = $1 ORDER BY sequence DESC LIMIT 1",
                uuid.UUID(agreed.record_id),
            )
            await insert(
                self.connection,
                "dispositions",
                tenant_id=self.tenant_id,
                record_id=uuid.UUID(agreed.record_id),
                sequence=last["sequence"] + 1,
                previous_disposition=last["disposition"],
                disposition=disposition,
                note="by hand",
                actor_id=uuid.uuid4(),
                reevaluation_id=uuid.UUID(agreed.id),
            )
