"""What an installation of the first version has in its log is there, and verifies, after the migrations since."""

import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from services.audit import envelopes, merkle
from services.audit.envelopes import Envelope
from services.audit.verifier import GENESIS, leaf_hash
from services.cli.stack.backends import Backends
from services.kit import clock, migrations
from tests.audit.events import event, log_of, processes
from tests.suite import Suite, superuser_of
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.event_pb2 import AuditEvent
from triptych.common.v1.role_pb2 import Role

OWNER = "triptych_audits_owner"
ENTRIES = 300
_ENTRY = (
    "INSERT INTO audits.audit_log (tenant_id, seq, recorded_at, event_id, source, source_seq, entity, action,"
    " actor_kind, actor_id, correlation_id, occurred_at, leaf, body)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
)


async def migrate(backends: Backends, database: str, revision: str) -> None:
    """Bring the schema to a revision."""
    config = migrations._config("services.audit", "audits")
    engine = create_async_engine(
        migrations._with_driver(backends.migrator_url(database), backends.password("triptych_migrator"))
    )

    def upgrade(connection: Connection, config: Config) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with engine.connect() as connection:
        await connection.execute(text(f"SET ROLE {OWNER}"))
        await connection.execute(text("SET search_path TO audits"))
        await connection.commit()
        await connection.run_sync(upgrade, config)
        await connection.commit()
    await engine.dispose()


async def fill(backends: Backends, database: str, tenant_id: str) -> None:
    """Write a log as the first version did."""
    begin = clock.now()
    moments = [begin + timedelta(microseconds=seq) for seq in range(ENTRIES)]
    events = [event(tenant_id, number) for number in range(1, ENTRIES + 1)]
    async with superuser_of(backends, database) as connection:
        await write(connection, tenant_id, events, moments)


async def write(
    connection: asyncpg.Connection, tenant_id: str, events: Sequence[AuditEvent], moments: Sequence[datetime]
) -> None:
    """Write a log of one source, each entry at its moment, into a schema of one of the first two versions."""
    tenant, previous, leaves, entries, ids = uuid.UUID(tenant_id), GENESIS, [], [], []
    for seq, (given, at) in enumerate(zip(_accepted(events), moments, strict=True)):
        body = given.body(seq=seq, recorded_at=at, prev_hash=previous)
        leaves.append(leaf_hash(body))
        previous = leaves[-1].hex()
        event_id = uuid.UUID(given.event_id)
        entries.append(
            (
                tenant, seq, at, event_id, given.source, given.source_seq, given.entity, given.action, given.actor_kind,
                given.actor_id, given.correlation_id, given.occurred_at, leaves[-1], body,
            )
        )  # fmt: skip
        ids.append((tenant, event_id, seq, at, given.content_hash))
    await connection.executemany(_ENTRY, entries)
    await connection.executemany("INSERT INTO audits.dedup VALUES ($1, $2, $3, $4, $5)", ids)
    await connection.execute(
        "INSERT INTO audits.head VALUES ($1, $2, $3, $4, 0)", tenant, len(leaves), leaves[-1], moments[-1]
    )
    for key, hashes in merkle.Edge(0, {}).extend(leaves).items():
        await connection.execute(
            "INSERT INTO audits.tiles VALUES ($1, $2, $3, $4)", tenant, key.level, key.number, hashes
        )


def _accepted(events: Sequence[AuditEvent]) -> Iterator[Envelope]:
    for begin in range(0, len(events), 100):
        part = events[begin : begin + 100]
        yield from envelopes.accept(part, source=part[0].source)


async def test_numbers_of_months_that_had_left_are_counted_with_those_that_are_there(backends: Backends) -> None:
    database = f"numbers_{uuid.uuid4().hex[:12]}"
    backends.create_database(database)
    await migrate(backends, database, "0005")
    async with superuser_of(backends, database) as connection:
        tenant, now = uuid.uuid4(), clock.now()
        await write(connection, str(tenant), [event(str(tenant), number) for number in (31, 32, 34)], [now] * 3)
        manifests = [  # each says what had come until its end; entries of the last are still in the log
            ("2024-01-01", 0, 20, {"projects": [[1, 12]], "auth": [[1, 8]]}, "retired"),
            ("2024-02-01", 20, 41, {"projects": [[1, 30]], "auth": [[1, 8], [10, 11]], "audit": [[1, 1]]}, "retired"),
            ("2024-03-01", 41, 42, {"projects": [[1, 31]], "auth": [[1, 8], [10, 11]], "audit": [[1, 1]]}, "archived"),
        ]
        for month, begin, end, sources, state in manifests:
            await connection.execute(
                "INSERT INTO audits.manifests (tenant_id, month, begin_seq, end_seq, last_leaf, manifest_seq, event_id,"
                " sources, state) VALUES ($1, $2::text::date, $3, $4, sha256(''), $4, uuidv7(), $5::text::jsonb, $6)",
                tenant, month, begin, end, json.dumps(sources), state,
            )  # fmt: skip
        await migrate(backends, database, "head")
        counted = await connection.fetch("SELECT source, events, last_seq FROM audits.sources ORDER BY source")
        assert [tuple(row) for row in counted] == [("auth", 10, 11), ("projects", 33, 34)]
        assert await connection.fetchval("SELECT count(*) FROM audits.emitters") == 2


async def test_a_log_of_the_first_version_is_kept(suite: Suite, backends: Backends, tmp_path: Path) -> None:
    database = f"{suite.database}_upgraded"
    backends.create_database(database)
    tenant_id = str(uuid.uuid4())
    await migrate(backends, database, "0001")
    await fill(backends, database, tenant_id)
    await migrate(backends, database, "head")
    async with processes(suite, tmp_path, "audit", database=database) as other:
        log = await log_of(other, other.person(Role.ROLE_ADMIN, tenant_id=tenant_id))
        result = await log.verify()
        assert (result.verdict, result.total, len(result.cosignatures)) == (pb.LOG_VERDICT_OK, ENTRIES, 1), result
        assert not result.guard_findings
        log.count = ENTRIES
        await log.grow(3)
        result = await log.verify()
        assert (result.verdict, result.total) == (pb.LOG_VERDICT_OK, ENTRIES + 3), result.finding
        async with superuser_of(backends, database) as connection:
            counted = await connection.fetch("SELECT source, events, last_seq, missing_time FROM audits.sources")
            assert [tuple(row) for row in counted] == [("projects", ENTRIES + 3, ENTRIES + 3, None)]
            assert await connection.fetchval("SELECT seen_time IS NOT NULL FROM audits.emitters")
            distinct = "SELECT count(DISTINCT payload ->> 'name') FROM audits.audit_log WHERE tenant_id = $1"
            assert await connection.fetchval(distinct, uuid.UUID(tenant_id)) == ENTRIES + 3
