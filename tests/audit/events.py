"""Events to append, and the whole of a stream, for the tests of audit."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from services.kit import clock
from tests.suite import Person, Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.event_pb2 import AuditEvent, Receipt
from triptych.common.v1.principal_pb2 import PrincipalKind

Item = TypeVar("Item")


def event(tenant_id: str, number: int, *, source: str = "projects", **changes: Any) -> AuditEvent:
    """Make an ordinary event; `payload` is a plain dictionary."""
    payload = changes.pop("payload", {"name": f"Proyecto número {number}", "count": number, "tags": ["a", True, None]})
    usual = {
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
    writer: AuditServiceStub
    count: int = 0
    events: list[AuditEvent] = field(default_factory=list)

    @property
    def tenant_id(self) -> str:
        """Whose log it is."""
        return self.person.tenant_id

    @property
    def reader(self) -> AuditServiceStub:
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
        for begin in range(0, len(events), 500):
            answer = await self.writer.AppendEvents(pb.AppendEventsRequest(events=events[begin : begin + 500]))
            receipts += answer.receipts
        return receipts

    async def verify(self) -> pb.VerifyLogResponse:
        """Verify the log and give the result."""
        return (await every(self.reader.VerifyLog(pb.VerifyLogRequest())))[-1]

    async def export(self) -> bytes:
        """Export the log."""
        return b"".join([message.chunk for message in await every(self.reader.ExportEvents(pb.ExportEventsRequest()))])


async def every(stream: AsyncIterator[Item]) -> list[Item]:
    """Give all messages of a stream."""
    return [message async for message in stream]
