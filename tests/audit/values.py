"""Events with personal values, what a log shows of them, and their redaction, for the tests of audit."""

from typing import Any

from google.protobuf.json_format import ParseDict

from services.kit import commitments
from tests.audit.events import Log, event, every
from triptych.audit.v1 import audit_service_pb2 as pb, redaction_service_pb2 as redaction_pb
from triptych.audit.v1.event_pb2 import AuditEvent
from triptych.audit.v1.redaction_service_pb2_grpc import RedactionServiceStub

EMAIL = "ana@example.org"
MANY = 6000
"""Personal values of a log that is crowded with them."""


def personal(tenant_id: str, number: int, payload: dict[str, Any], *paths: str, **changes: Any) -> AuditEvent:
    """Make an event whose payload has commitments at these paths."""
    opened = commitments.commit(payload, paths)
    made = event(tenant_id, number, payload=payload, **changes)
    for opening in opened:
        ParseDict(opening.value, made.openings.add(path=opening.path, salt=opening.salt).value)
    return made


async def entries(log: Log) -> list[Any]:
    """Give what a log shows, oldest first."""
    return list((await log.reader.ListEvents(pb.ListEventsRequest())).entries)[::-1]


async def redact(log: Log, **fields: Any) -> Any:
    """Erase values about a subject, or of an event."""
    stub = log.person.stub(RedactionServiceStub)
    if "subject" in fields:
        return await stub.RedactSubject(redaction_pb.RedactSubjectRequest(reason="asked for", **fields))
    return await stub.RedactEvent(redaction_pb.RedactEventRequest(reason="asked for", **fields))


async def signed(log: Log, *, openings: bool = False) -> list[bytes]:
    """Have a log signed and give the lines of its export."""
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK
    request = pb.ExportEventsRequest(with_openings=openings)
    data = b"".join([message.chunk for message in await every(log.reader.ExportEvents(request))])
    return data.splitlines(keepends=True)
