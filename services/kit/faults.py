"""Everything a call can fail with: one class per status code, the same at the server and at its caller.

A service subclasses these beside its nouns (`class ProjectNotFound(NotFound)`); the reason on the wire derives from the
class name and stands in the context's `enum Reason`. Text and facts are for the caller: nothing internal goes in.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "triptych"
LONGEST_TEXT, LONGEST_FACT, MOST_VIOLATIONS = 500, 200, 10
"""Characters, and how many violations: a status travels in trailers, of which gRPC takes 8 KiB and no more."""


class Fault(Exception):
    """A failure with a status, a reason, facts for the caller and, where a retry helps, when to try."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"
    retry_after: timedelta | None = None

    def __init_subclass__(cls) -> None:
        """Derive the reason from the class name: ProjectNotFound is PROJECT_NOT_FOUND."""
        cls.reason = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()

    def __init__(
        self,
        text: str,
        *,
        violations: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
        **facts: object,
    ) -> None:
        super().__init__(text)
        self.text = _short(text, LONGEST_TEXT)
        self.facts = {key: _short(str(value), LONGEST_FACT) for key, value in facts.items()}
        self.violations = {
            _short(subject, LONGEST_FACT): _short(problem, LONGEST_FACT)
            for subject, problem in list((violations or {}).items())[:MOST_VIOLATIONS]
        }
        if retry_after is not None:
            self.retry_after = retry_after

    def status(self) -> status_pb2.Status:
        """Give the rich status that goes on the wire."""
        status = status_pb2.Status(code=self.code.value[0], message=self.text)
        _pack(status, error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.facts))
        if self.violations:
            _pack(status, self._violations())
        if self.retry_after is not None:
            delay = Duration()
            delay.FromTimedelta(self.retry_after)
            _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
        return status

    def _violations(
        self,
    ) -> error_details_pb2.BadRequest | error_details_pb2.PreconditionFailure | error_details_pb2.QuotaFailure:
        """Violations take the form that the status has a detail type for."""
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            quota = error_details_pb2.QuotaFailure()
            for subject, text in self.violations.items():
                quota.violations.add(subject=subject, description=text)
            return quota
        if self.code is grpc.StatusCode.FAILED_PRECONDITION:
            precondition = error_details_pb2.PreconditionFailure()
            for subject, text in self.violations.items():
                precondition.violations.add(type=self.reason, subject=subject, description=text)
            return precondition
        bad = error_details_pb2.BadRequest()
        for field, text in self.violations.items():
            bad.field_violations.add(field=field, description=text)
        return bad


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _pack(status: status_pb2.Status, detail: object) -> None:
    packed = AnyMessage()
    packed.Pack(detail)  # type: ignore[arg-type]
    status.details.append(packed)


class InvalidArgument(Fault):
    """The request is wrong in itself; sending it again changes nothing."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class Unauthenticated(Fault):
    """Nobody knows who is calling."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(Fault):
    """The caller is known and may not."""

    code = grpc.StatusCode.PERMISSION_DENIED


class NotFound(Fault):
    """Nothing of that id is there for this caller."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(Fault):
    """Something is there that excludes this."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(Fault):
    """The state of things does not allow it now."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(Fault):
    """Somebody else was faster; read again and decide again."""

    code = grpc.StatusCode.ABORTED


class ResourceExhausted(Fault):
    """Too much, or too many."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after = timedelta(seconds=1)


class DeadlineExceeded(Fault):
    """Time ran out; whether the work was done is not known: repeat with the same request_id."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(Fault):
    """Something that is needed is down."""

    code = grpc.StatusCode.UNAVAILABLE
    retry_after = timedelta(seconds=1)


class DataLoss(Fault):
    """What was stored is damaged."""

    code = grpc.StatusCode.DATA_LOSS


class Unimplemented(Fault):
    """The server has no such method."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(Fault):
    """A defect of the server; the caller learns the request id and nothing else."""


class RequestInvalid(InvalidArgument):
    """Fields are out of shape."""


class RequestUndecodable(InvalidArgument):
    """The bytes are no message of the request type."""


class MetadataInvalid(InvalidArgument):
    """Metadata is out of shape."""


class TokenInvalid(Unauthenticated):
    """No token, or one that does not verify; which of the two, and why, is not said."""

    def __init__(self) -> None:
        super().__init__("a valid access token is needed: authorization: Bearer TOKEN")


class CallerNotPermitted(PermissionDenied):
    """The caller may not call this method."""


class ServerBusy(ResourceExhausted):
    """The server sheds load."""


class DependencyUnavailable(Unavailable):
    """A server or service that is needed does not answer."""


class DeadlineTooShort(DeadlineExceeded):
    """Too little time was left to begin, or the work did not end in time."""


class CallerLeft(Fault):
    """The caller cancelled, or its connection ended; for the log, the metric and the span, since nobody is told."""

    code = grpc.StatusCode.CANCELLED


_BY_CODE: dict[int, type[Fault]] = {
    kind.code.value[0]: kind
    for kind in (
        InvalidArgument, Unauthenticated, PermissionDenied, NotFound, AlreadyExists, FailedPrecondition, Aborted,
        ResourceExhausted, DeadlineExceeded, Unavailable, DataLoss, Unimplemented,
    )
}  # fmt: skip


def from_error(error: grpc.aio.AioRpcError, *, service: str) -> Fault:
    """Rebuild the fault that another service raised, so that it can be handled, or passed on as it is."""
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
    except ValueError:  # details that do not fit their status: not of our making
        status = None
    if status is None:
        return _without_details(error, service)
    kind = _BY_CODE.get(status.code)
    if kind is None or status.code == code_pb2.INTERNAL:
        return DependencyUnavailable(f"{service} failed; retry", dependency=service)
    fault = kind(status.message)
    fault.retry_after = None  # what the sender said counts, not our class's usual
    for packed in status.details:
        _unpack(fault, packed)
    return fault


def _without_details(error: grpc.aio.AioRpcError, service: str) -> Fault:
    """What gRPC itself says when no server of ours answered."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineTooShort(f"{service} did not answer in time", dependency=service)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ServerBusy(f"{service} refused a message that is too large or one too many", dependency=service)
    return DependencyUnavailable(f"{service} does not answer; retry", dependency=service)


def _unpack(fault: Fault, packed: AnyMessage) -> None:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    bad, quota = error_details_pb2.BadRequest(), error_details_pb2.QuotaFailure()
    precondition = error_details_pb2.PreconditionFailure()
    if packed.Unpack(info):
        fault.reason = info.reason
        fault.facts = dict(info.metadata)
    elif packed.Unpack(retry):
        fault.retry_after = retry.retry_delay.ToTimedelta()
    elif packed.Unpack(bad):
        fault.violations = {violation.field: violation.description for violation in bad.field_violations}
    elif packed.Unpack(quota):
        fault.violations = {violation.subject: violation.description for violation in quota.violations}
    elif packed.Unpack(precondition):
        fault.violations = {violation.subject: violation.description for violation in precondition.violations}
