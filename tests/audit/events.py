"""Events to append, and the whole of a stream, for the tests of audit."""

import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from services.kit import clock
from services.kit.access import SYSTEM_TENANT
from tests.suite import Person, Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.event_pb2 import AuditEvent, Receipt
from triptych.common.v1.principal_pb2 import PrincipalKind

if TYPE_CHECKING:
    from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceAsyncStub

Item = TypeVar("Item")


def event(tenant_id: str, number: int, *, source: str = "projects", **changes: Any) -> AuditEvent:
    """Make an ordinary event; `payload` is a plain dictionary."""
    payload = changes.pop("payload", {"name": f"Proyecto número {number}", "count": number, "tags": ["a", True, None]})
    usual: dict[str, Any] = {
        "event_id": str(uuid.UUID(int=(time.time_ns() // 10**6) << 80 | 7 << 76 | 2 << 62 | uuid.uuid4().int % 2**62)),
        "tenant_id": tenant_id,
        "source": source,
        "source_seq": number,
        "entity": f"project:{number}",
        "action": "projects.project.create",
        "correlation_id": f"request-{number}",
    }
    made = AuditEvent(**(usual | changes))
    made.actor.kind, made.actor.id = PrincipalKind.PRINCIPAL_KIND_USER, "somebody"
    made.occur_time.FromDatetime(clock.now())
    made.payload.update(payload)
    return made


@dataclass
class Log:
    """The log of a fresh tenant: its admin, and the service that writes to it."""

    suite: Suite
    person: Person
    writer: "AuditServiceAsyncStub"
    count: int = 0
    events: list[AuditEvent] = field(default_factory=list)

    @property
    def tenant_id(self) -> str:
        """Whose log it is."""
        return self.person.tenant_id

    @property
    def reader(self) -> "AuditServiceAsyncStub":
        """A stub of the admin."""
        return self.person.stub(AuditServiceStub)

    async def grow(self, count: int, **changes: Any) -> list[Receipt]:
        """Append ordinary events."""
        made = [event(self.tenant_id, self.count + step, **changes) for step in range(1, count + 1)]
        self.count += count
        self.events += made
        return await self.send(*made)

    async def send(self, *events: AuditEvent) -> list[Receipt]:
        """Append these events."""
        receipts: list[Receipt] = []
        for begin in range(0, len(events), 100):
            answer = await self.writer.AppendEvents(pb.AppendEventsRequest(events=events[begin : begin + 100]))
            receipts += answer.receipts
        return receipts

    async def verify(self) -> pb.VerifyLogResponse:
        """Verify the log and give the result."""
        return (await every(self.reader.VerifyLog(pb.VerifyLogRequest())))[-1]

    async def export(self) -> bytes:
        """Export the log."""
        return b"".join([message.chunk for message in await every(self.reader.ExportEvents(pb.ExportEventsRequest()))])


@asynccontextmanager
async def processes(suite: Suite, folder: Path, *names: str, database: str = "") -> AsyncIterator[Suite]:
    """Other processes of these services, which remember nothing; on the same database, or on another."""
    other = Suite(suite.backends, database or suite.database, folder)
    try:
        await other.start(*names)
        yield other
    finally:
        await other.stop()


async def log_of(suite: Suite, person: Person) -> Log:
    """The log of a person's tenant, as these processes show it."""
    peer = await suite.service("projects", SYSTEM_TENANT)
    return Log(suite, person, peer.stub(AuditServiceStub))


async def every(stream: AsyncIterable[Item]) -> list[Item]:
    """Give all messages of a stream."""
    return [message async for message in stream]
