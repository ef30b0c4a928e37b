"""The RPCs of RedactionService."""

from services.audit import redactions, subjects
from services.kit.db import Database
from triptych.audit.v1 import redaction_service_pb2 as pb, redaction_service_pb2_grpc


class Redactions(redaction_service_pb2_grpc.RedactionServiceServicer):
    """An admin erases personal values of their tenant."""

    def __init__(self, *, db: Database) -> None:
        self._db = db

    async def RedactEvent(self, request: pb.RedactEventRequest, context: object) -> pb.RedactEventResponse:
        async with self._db.begin() as tx:
            return await redactions.redact_event(tx, request)

    async def RedactSubject(self, request: pb.RedactSubjectRequest, context: object) -> pb.RedactSubjectResponse:
        return await subjects.redact(self._db, request)
