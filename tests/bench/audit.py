"""The audit log against what it could be without being one: raw COPY, a chain kept by a trigger, bare SHA-256.

Appends are measured from decoded events to committed receipts, in the process of the service and without the wire; both
sides commit durably, in turns, on the same server. The plot goes to build/audit.png.
"""

import asyncio
import hashlib
import math
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from services.audit import envelopes, merkle, verifier
from services.audit.batches import Batches
from services.cli.stack.backends import Backends
from services.kit.access import SYSTEM_TENANT
from services.kit.server import Runtime
from tests.audit.events import Log, event, every, log_of
from tests.bench.results import BUILD, Result, ratio
from tests.conftest import TEMPLATE, _migrate
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.event_pb2 import AuditEvent
from triptych.common.v1.role_pb2 import Role

BATCH = 500
"""Events of a call, as many as one may have; and rows of a COPY."""
CALLS = 12
"""Calls of a round."""
ROUNDS = 7
LOAD_SECONDS = 20.0
VERIFIED = 30_000
SIZES = (1_000, 10_000, 100_000, 1_000_000)
_COLUMNS = (
    "tenant_id", "seq", "recorded_at", "event_id", "source", "source_seq", "entity", "action", "actor_kind", "actor_id",
    "correlation_id", "occurred_at", "leaf", "body",
)  # fmt: skip
_TRIGGER = """
CREATE SCHEMA bench;
CREATE TABLE bench.copied (LIKE audits.audit_log INCLUDING ALL) PARTITION BY RANGE (recorded_at);
CREATE TABLE bench.copied_all PARTITION OF bench.copied FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
CREATE TABLE bench.chained (LIKE audits.audit_log INCLUDING ALL);
CREATE FUNCTION bench.chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last record;
BEGIN
    PERFORM pg_advisory_xact_lock(4711);
    SELECT c.seq, c.leaf INTO last FROM bench.chained c WHERE c.tenant_id = NEW.tenant_id ORDER BY c.seq DESC LIMIT 1;
    NEW.seq := coalesce(last.seq + 1, 0);
    NEW.body := jsonb_set(NEW.body::jsonb, '{prev_hash}', to_jsonb(encode(coalesce(last.leaf, '\\x00'), 'hex')))::text;
    NEW.leaf := sha256(convert_to(NEW.body, 'UTF8'));
    RETURN NEW;
END $$;
CREATE TRIGGER chain BEFORE INSERT ON bench.chained FOR EACH ROW EXECUTE FUNCTION bench.chain();
"""


@dataclass
class Stage:
    """A durable installation of the audit service, and a superuser beside it."""

    suite: Suite
    superuser: asyncpg.Connection
    batches: Batches
    logs: list[Log] = field(default_factory=list)

    @property
    def runtime(self) -> Runtime:
        """The service."""
        return self.suite.runtimes["audit"]

    async def log(self) -> Log:
        """A new log."""
        return await log_of(self.suite, self.suite.person(Role.ROLE_ADMIN))


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Start it, on folders of its own."""
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        backends = Backends(folder / "stack")
        await asyncio.to_thread(lambda: None)
        backends.start()
        try:
            backends.create_database(TEMPLATE)
            await _migrate(backends, TEMPLATE)
            suite = Suite(backends, TEMPLATE, folder / "data")
            await suite.start("audit")
            superuser = await backends.postgres_server.connect(TEMPLATE)
            await superuser.execute(_TRIGGER)
            batches = Batches(db=suite.runtimes["audit"].db, events=1000, seconds=0.005, writers=4)
            yield Stage(suite, superuser, batches)
            await superuser.close()
            await suite.stop()
        finally:
            backends.stop()


def made(tenant_id: str, begin: int, count: int = BATCH) -> list[AuditEvent]:
    """Events of an ordinary size, about 650 bytes as bodies."""
    payload = {
        "name": "a project of ordinary length",
        "settings": {"limit": 12, "tags": ["one", "two"]},
        "note": "n" * 90,
    }
    return [event(tenant_id, begin + step, payload=payload) for step in range(1, count + 1)]


async def append(there: Stage, tenant_id: str, begin: int, calls: int = CALLS, callers: int = 1) -> float:
    """Append and give events a second."""
    groups = [made(tenant_id, begin + call * BATCH) for call in range(calls)]
    waiting = iter(groups)
    began = time.perf_counter()

    async def caller() -> None:
        for group in waiting:
            await there.batches.append(envelopes.accept(group, source="projects"))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return calls * BATCH / (time.perf_counter() - began)


def rows_of(tenant_id: str, begin: int, count: int) -> list[tuple[Any, ...]]:
    """Rows with the bodies that the service would have written."""
    moment = datetime.now(UTC) + timedelta(microseconds=begin)
    rows = []
    for step, given in enumerate(envelopes.accept(made(tenant_id, begin, count), source="projects")):
        at = moment + timedelta(microseconds=step)
        body = given.body(seq=begin + step, recorded_at=at, prev_hash="ab" * 32)
        rows.append(
            (
                uuid.UUID(tenant_id), begin + step, at, uuid.UUID(given.event_id), given.source, given.source_seq,
                given.entity, given.action, given.actor_kind, given.actor_id, given.correlation_id, given.occurred_at,
                verifier.leaf_hash(body), body,
            )
        )  # fmt: skip
    return rows


async def copy(there: Stage, tenant_id: str, begin: int) -> float:
    """COPY ready rows into the same columns and indexes, a transaction for as many as a call has; rows a second."""
    groups = [rows_of(tenant_id, begin + call * BATCH, BATCH) for call in range(CALLS)]
    began = time.perf_counter()
    for rows in groups:
        await there.superuser.copy_records_to_table("copied", schema_name="bench", columns=_COLUMNS, records=rows)
    return CALLS * BATCH / (time.perf_counter() - began)


async def chain(there: Stage) -> float:
    """Insert rows one by one, as an application with a trigger does; rows a second."""
    rows = rows_of(SYSTEM_TENANT, 0, 500)
    places = ", ".join(f"${place}" for place in range(1, len(_COLUMNS) + 1))
    statement = await there.superuser.prepare(f"INSERT INTO bench.chained ({', '.join(_COLUMNS)}) VALUES ({places})")
    began = time.perf_counter()
    for row in rows:
        await statement.fetch(*row)
    return len(rows) / (time.perf_counter() - began)


def appends() -> list[Result]:
    """The append path, against COPY, against a trigger, and with eight callers against one."""

    async def run() -> list[Result]:
        async with stage() as there:
            ours, raw = str(uuid.uuid4()), str(uuid.uuid4())
            await append(there, ours, 0)
            await copy(there, raw, 0)
            await chain(there)
            copied, chained, together = [], [], []
            for turn in range(1, ROUNDS + 1):
                begin = turn * 3 * CALLS * BATCH
                one = await append(there, ours, begin)
                copied.append((one, await copy(there, raw, begin)))
                chained.append((one, await chain(there)))
                eight = await append(there, ours, begin + CALLS * BATCH, 2 * CALLS, 8)
                together.append((eight, one))
        return [
            ratio(
                "append_vs_copy",
                copied,
                goal=">= 0.5",
                note=f"events/s, {BATCH} a call; COPY of ready rows, same indexes",
            ),
            ratio("append_vs_trigger", chained, goal=">= 10", note="events/s; one row a transaction through a trigger"),
            ratio("append_8_callers", together, goal=">= 0.9", note="events/s of eight callers, and of one"),
        ]

    return asyncio.run(run())


def verification() -> list[Result]:
    """VerifyLog of a log over the wire, and the offline verifier, against SHA-256 of the same bodies."""

    async def run() -> list[Result]:
        async with stage() as there:
            log = await there.log()
            await append(there, log.tenant_id, 0, VERIFIED // BATCH)
            await log.verify()
            rows = await there.superuser.fetch(
                "SELECT body FROM audits.audit_log WHERE tenant_id = $1", uuid.UUID(log.tenant_id)
            )
            bodies = [row["body"].encode() for row in rows]
            lines = (await log.export()).splitlines(keepends=True)
            online, offline = [], []
            for _ in range(5):
                bare = rate(lambda: [hashlib.sha256(b"\0" + body).digest() for body in bodies])
                began = time.perf_counter()
                result = (await every(log.reader.VerifyLog(pb.VerifyLogRequest())))[-1]
                online.append((VERIFIED / (time.perf_counter() - began), bare))
                assert result.verdict == pb.LOG_VERDICT_OK, result.finding
                offline.append((rate(lambda: verifier.verify(lines)), bare))
        note = "entries/s; SHA-256 of the bodies in memory, hardware instructions, nothing else"
        return [
            ratio("verify_vs_sha256", online, goal=">= 0.4", note=f"VerifyLog, {note}"),
            ratio("verify_offline_vs_sha256", offline, goal=">= 0.4", note=f"audit-verify, {note}"),
        ]

    return asyncio.run(run())


def rate(work: Callable[[], object]) -> float:
    """Entries a second of a pass over all."""
    began = time.perf_counter()
    work()
    return VERIFIED / (time.perf_counter() - began)


def proofs() -> list[Result]:
    """The largest inclusion proof among many of a tree of a million, per hash that it may have at most."""
    size = SIZES[-1]
    most = max(len(merkle.inclusion(random.randrange(size), size)) for _ in range(20_000)) * merkle.HASH  # noqa: S311
    bound = merkle.HASH * math.ceil(math.log2(size))
    return [Result("proof_bytes", most, "bytes", f"<= {bound}", note=f"the largest of 20000 in {size} entries")]


def lag() -> list[Result]:
    """From the receipt of an event to the signature that covers it, at half of the rate that one caller reaches."""

    async def run() -> list[Result]:
        async with stage() as there:
            tenant_id = str(uuid.uuid4())
            full = await append(there, tenant_id, 0)
            acknowledged: list[tuple[int, float]] = []
            begin = end = CALLS * BATCH
            began = time.perf_counter()
            while time.perf_counter() - began < LOAD_SECONDS:
                await there.batches.append(envelopes.accept(made(tenant_id, end, 100), source="projects"))
                end += 100
                acknowledged.append((end, time.time()))
                await asyncio.sleep(max(0.0, began + (end - begin) / (full / 2) - time.perf_counter()))
            await asyncio.sleep(3)
            rows = await there.superuser.fetch(
                "SELECT size, extract(epoch FROM sign_time)::float8 AS signed FROM audits.checkpoints"
                " WHERE tenant_id = $1 ORDER BY size",
                uuid.UUID(tenant_id),
            )
        lags = sorted(next(row["signed"] for row in rows if row["size"] >= size) - at for size, at in acknowledged)
        p99 = lags[int(len(lags) * 0.99)]
        rate_held = (end - begin) / LOAD_SECONDS
        note = f"median {statistics.median(lags):.2f} s, {rate_held:.0f} events/s for {LOAD_SECONDS:.0f} s"
        return [Result("checkpoint_lag_p99_s", round(p99, 2), "s", "<= 2", note=note)]

    return asyncio.run(run())


def growth() -> list[Result]:
    """The rate of appends while one log grows to a million entries, and a plot of it beside the size of proofs."""

    async def run() -> list[tuple[int, float]]:
        async with stage() as there:
            tenant_id, size, found = str(uuid.uuid4()), 0, []
            for goal in SIZES:
                while size < goal:
                    calls = min((goal - size) // BATCH, 20)
                    last = await append(there, tenant_id, size, calls)
                    size += calls * BATCH
                found.append((size, last))
                print(f"  {size} entries: {last:.0f} events/s")
        return found

    rates = asyncio.run(run())
    path = _plot(rates)
    value = round(rates[-1][1] / rates[1][1], 3)
    note = f"events/s at {SIZES[-1]} entries and at {SIZES[1]}; {path}"
    return [Result("append_at_million", value, "ratio", ">= 0.5", round(rates[-1][1]), round(rates[1][1]), note)]


def _plot(rates: Sequence[tuple[int, float]]) -> Path:
    import matplotlib as mpl  # of the extra `charts`

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, left = plt.subplots(figsize=(8, 4.5), layout="constrained")
    sizes = [size for size, _ in rates]
    left.plot(sizes, [rate for _, rate in rates], "o-", color="tab:blue", label="append rate")
    left.set(xscale="log", xlabel="entries in the log", ylabel="events appended per second", ylim=(0, None))
    right = left.twinx()
    right.plot(
        sizes, [32 * math.ceil(math.log2(size)) for size in sizes], "s--", color="tab:red", label="inclusion proof"
    )
    right.set(ylabel="bytes of an inclusion proof", ylim=(0, 800))
    figure.legend(loc="outside upper center", ncols=2)
    BUILD.mkdir(exist_ok=True)
    path = BUILD / "audit.png"
    figure.savefig(path, dpi=120)
    return path
