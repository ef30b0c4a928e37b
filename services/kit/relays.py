"""Relays: each brings the events of a service's outbox to audit, in order, one process of the service at a time.

Delivery is at least once; audit makes it exactly once by event id. An event that left keeps its receipt in the outbox,
and signed checkpoints are kept over them, so every emitter is a witness of the log. Who stops gives the lease back.
"""

import asyncio
import base64
import uuid

import asyncpg
import structlog
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from services.kit import faults, requests
from services.kit.access import SYSTEM_TENANT
from services.kit.clients import Neighbours
from services.kit.db import Database, Row
from services.kit.heartbeats import Heartbeat
from services.kit.outbox import OPENINGS
from services.kit.telemetry import Metrics
from triptych.audit.v1 import audit_service_pb2, audit_service_pb2_grpc, event_pb2
from triptych.common.v1.principal_pb2 import PrincipalKind

BATCH = 200
BATCH_BYTES = 2 * 1024 * 1024
"""Half of what a gRPC message may be: a batch that the log could never take would stop the relay for good."""
LEASE_SECONDS = 15
RELEASE_SECONDS = 2.0
"""What giving the lease back may take from a stop."""
IDLE_SECONDS = 1.0
PURGE_SECONDS = 600.0
HEARTBEAT_SECONDS = 300.0
RETRY_SECONDS = 30.0
"""After which a heartbeat that failed is tried again."""
KINDS = {
    "user": PrincipalKind.PRINCIPAL_KIND_USER,
    "agent": PrincipalKind.PRINCIPAL_KIND_AGENT,
    "service": PrincipalKind.PRINCIPAL_KIND_SERVICE,
}
_log = structlog.get_logger()


class Wakening:
    """Tells the relay that something was committed; one per process."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Something is there."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Sleep until something is there, or this long."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        finally:
            self._event.clear()


class Relay:
    """Brings events to audit, in order, one replica at a time. It logs in with a role of its own."""

    def __init__(
        self,
        *,
        service: str,
        db: Database,
        neighbours: Neighbours,
        metrics: Metrics,
        wakening: Wakening,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._service = service
        self._db = db
        self._neighbours = neighbours
        self._metrics = metrics
        self._wakening = wakening
        self._holder = str(uuid.uuid4())
        self._heartbeat = Heartbeat(db=db, neighbours=neighbours)
        self._heartbeat_seconds = heartbeat_seconds
        self._purge_due = self._beat_due = 0.0

    async def run(self) -> None:
        """Deliver for as long as the process runs."""
        while True:
            try:
                await self._keep_house()  # first: it must not depend on whether audit takes events
                while await self.deliver():
                    await self._keep_house()
            except faults.InvalidArgument as refusal:
                await self._shorten(refusal)
            except (faults.Unavailable, faults.DeadlineExceeded, asyncpg.PostgresError, OSError) as error:
                _log.warning("relay waits", error=type(error).__name__, text=str(error))
            except Exception:  # noqa: BLE001 - a loop top: nothing may end it, and nothing passes unseen
                _log.exception("relay failed", service=self._service)
            await self._wakening.wait(IDLE_SECONDS)

    async def release(self) -> None:
        """Give the lease back once `run` has ended, so that the next process need not wait until it expires."""
        # Not a timeout around it: what is cancelled rolls back, and waits for a server that may not answer that either.
        releasing = asyncio.create_task(self._release())
        if not (await asyncio.wait({releasing}, timeout=RELEASE_SECONDS))[0]:
            releasing.cancel()
            _log.warning("relay keeps its lease: PostgreSQL takes too long", expires_in=LEASE_SECONDS)

    async def _release(self) -> None:
        try:
            async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
                await tx.connection.execute(_RELEASE, self._holder)
        except (
            faults.Fault,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
        ) as error:
            _log.warning("relay keeps its lease", error=type(error).__name__, text=str(error), expires_in=LEASE_SECONDS)

    async def _keep_house(self) -> None:
        """Do what is due beside delivering."""
        now = asyncio.get_running_loop().time()
        if now >= self._purge_due:
            self._purge_due = now + PURGE_SECONDS
            await self._purge()
        if now >= self._beat_due:
            self._beat_due = now + min(self._heartbeat_seconds, RETRY_SECONDS)
            if await self._leads():
                await self._heartbeat.beat()
                self._beat_due = now + self._heartbeat_seconds

    async def deliver(self) -> int:
        """Deliver one batch and give its size; 0 when nothing is there, or another replica is at it."""
        rows = await self._claim()
        if not rows:
            return 0
        request = self._request(rows)
        stub = self._neighbours.stub("audit", audit_service_pb2_grpc.AuditServiceStub)
        answer = await stub.AppendEvents(request)
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            await tx.connection.executemany(
                _RECEIPT,
                [(receipt.event_id, receipt.seq, receipt.leaf_hash) for receipt in answer.receipts],
            )
            grown = await tx.connection.fetch(
                _SIZES,
                [receipt.event_id for receipt in answer.receipts],
                [receipt.duplicate for receipt in answer.receipts],
            )
        if again := [str(row["tenant_id"]) for row in grown if row["again"]]:
            _log.error("audit gave places again that it had given: a log was set back", logs=len(again), first=again[0])
        self._metrics.outbox_delivered.inc(len(request.events))
        return len(request.events)

    async def _leads(self) -> bool:
        """Take or keep the lease: a relay that is not the one to deliver says nothing of what was delivered."""
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            return await tx.connection.fetchval(_LEASE, self._holder, LEASE_SECONDS) is not None

    async def _claim(self) -> list[Row]:
        """Take or keep the lease, and number the oldest events that no running transaction can still precede."""
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            if await tx.connection.fetchval(_LEASE, self._holder, LEASE_SECONDS) is None:
                return []
            rows = await tx.connection.fetch(_PENDING, BATCH)
            if fresh := [row["event_id"] for row in rows if row["source_seq"] is None]:
                await tx.connection.execute(_NUMBER, fresh)
                # What was committed meanwhile has no number yet; it comes after all of these, with the next batch.
                again = await tx.connection.fetch(_PENDING, BATCH)
                rows = [row for row in again if row["source_seq"] is not None]
            return rows

    async def _shorten(self, refusal: faults.InvalidArgument) -> None:
        """Keep one event that the log will never take from stopping all others: its details become their digest."""
        _log.error("the log refused an event", reason=refusal.reason, text=refusal.text)
        if (event_id := refusal.facts.get("event_id")) is None:
            return
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            await tx.connection.execute(_SHORTEN, event_id, refusal.text)

    async def _purge(self) -> None:
        """Forget stored answers whose time is over."""
        more = True
        while more:
            async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
                more = await requests.purge(tx)

    def _request(self, rows: list[Row]) -> audit_service_pb2.AppendEventsRequest:
        """As many of the events, in order, as one message may hold."""
        request = audit_service_pb2.AppendEventsRequest()
        size = 0
        for row in rows:
            event = self._event(row)
            size += event.ByteSize()
            if request.events and size > BATCH_BYTES:
                break
            request.events.append(event)
        return request

    def _event(self, row: Row) -> event_pb2.AuditEvent:
        payload = Struct()
        payload.update({name: value for name, value in row["payload"].items() if name != OPENINGS})
        event = event_pb2.AuditEvent(
            event_id=str(row["event_id"]),
            tenant_id="" if str(row["tenant_id"]) == SYSTEM_TENANT else str(row["tenant_id"]),
            source=self._service,
            source_seq=row["source_seq"],
            entity=row["entity"],
            action=row["action"],
            occur_time=row["occur_time"],
            payload=payload,
            correlation_id=row["correlation_id"],
        )
        event.actor.kind = KINDS.get(row["actor_kind"], PrincipalKind.PRINCIPAL_KIND_SERVICE)
        event.actor.id = row["actor_id"] or row["actor_kind"]
        for opening in row["payload"].get(OPENINGS, ()):
            added = event.openings.add(path=opening["path"], salt=base64.b64decode(opening["salt"]))
            json_format.ParseDict(opening["value"], added.value)
        return event


_LEASE = """
INSERT INTO outbox_lease (name, holder, expire_time) VALUES ('relay', $1, now() + $2 * interval '1 second')
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expire_time = excluded.expire_time
WHERE outbox_lease.holder = excluded.holder OR outbox_lease.expire_time < now()
RETURNING holder
"""
# Of its holder alone: where it expired and somebody else has it, nothing is touched.
_RELEASE = "UPDATE outbox_lease SET expire_time = '-infinity' WHERE name = 'relay' AND holder = $1"
_PENDING = """
SELECT event_id, tenant_id, source_seq, entity, action, actor_kind, actor_id, occur_time, payload, correlation_id
FROM outbox WHERE deliver_time IS NULL AND xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY xid, event_id LIMIT $1
"""
# Each event gets its number in the tenant's sequence of this source, once: it is kept however often the event is sent.
_NUMBER = """
WITH fresh AS (
    SELECT event_id, tenant_id, row_number() OVER (PARTITION BY tenant_id ORDER BY xid, event_id) AS place
    FROM outbox WHERE event_id = ANY($1)),
sizes AS (SELECT tenant_id, count(*) AS size FROM fresh GROUP BY tenant_id),
counters AS (
    INSERT INTO outbox_sequences AS s (tenant_id, last_seq) SELECT tenant_id, size FROM sizes
    ON CONFLICT (tenant_id) DO UPDATE SET last_seq = s.last_seq + excluded.last_seq
    RETURNING tenant_id, last_seq)
UPDATE outbox SET source_seq = counters.last_seq - sizes.size + fresh.place
FROM fresh JOIN sizes USING (tenant_id) JOIN counters USING (tenant_id)
WHERE outbox.event_id = fresh.event_id
"""
_SHORTEN = f"""
UPDATE outbox SET payload = jsonb_build_object('refused', $2::text, 'details_sha256',
    encode(sha256(convert_to((payload - '{OPENINGS}')::text, 'UTF8')), 'hex'))
WHERE event_id = $1 AND deliver_time IS NULL
"""
_RECEIPT = f"""
UPDATE outbox SET deliver_time = now(), log_seq = $2, log_leaf = $3, payload = payload - '{OPENINGS}'
WHERE event_id = $1
"""
# A log only grows, so what is new in it stands behind all that this service has receipts of.
_SIZES = """
UPDATE outbox_sequences s SET log_size = greatest(s.log_size, g.size)
FROM (SELECT o.tenant_id, max(o.log_seq) + 1 AS size, min(o.log_seq) FILTER (WHERE NOT given.duplicate) AS first
      FROM outbox o JOIN unnest($1::uuid[], $2::boolean[]) given (event_id, duplicate) USING (event_id) GROUP BY 1) g
WHERE s.tenant_id = g.tenant_id
RETURNING s.tenant_id, coalesce(g.first < old.log_size, false) AS again
"""
