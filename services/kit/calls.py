"""All that happens around an RPC, in order: request id, deadline, identity, access, validation, handler, fault, log.

The one interceptor of every server. Nothing else touches `context.abort`.
"""

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_status.rpc_status import to_status

from services.kit import access, faults, log, telemetry
from services.kit.access import SYSTEM_TENANT, Caller, Method
from services.kit.identity import peer_service
from services.kit.tokens import Verifier
from services.kit.validation import check as validate

REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/=+-]{1,128}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LEAST_TIME = 0.005
"""Seconds that must be left for a call to begin."""
STREAMS_A_TENANT = 16
"""Streams that one tenant may have open at a server; they are long, and must not keep others out.

Services that call for themselves are no tenant."""
LOOK_SECONDS = 0.05
"""How often calls whose time is over are looked for; a caller's own deadline ends a call by itself."""
LAST_WORD_SECONDS = 0.25
"""What a call may still need to answer whose own token was revoked: it may be the one that revoked it."""
OVERDUE = "the work did not end in time; repeat with the same request_id"
_PROCESS, _count = secrets.token_hex(10), itertools.count()
"""Request ids of our own making: unlike those of any other process, and each unlike the one before."""
UNDECODABLE = object()
NOBODY = Caller()
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Work: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
"""What a method does: validate a request and handle it."""
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_log = structlog.get_logger()


@dataclass(slots=True)
class Call:
    """The RPC that this task is serving."""

    method: Method
    request_id: str
    token: str
    """Access token as it came, to travel along to neighbours."""
    traceparent: str
    expires: float
    """Moment of the loop's clock at which its time is over."""
    caller: Caller
    recorded: bool = False
    """An audit event was written, or a stored answer was given again."""
    ended: faults.Fault | None = None
    """What it was cancelled for, when that was not its caller's wish."""


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def current() -> Call | None:
    """Give the RPC that this task is serving, or None in background work."""
    return _current.get()


def caller() -> Caller:
    """Give the caller of the RPC that this task is serving."""
    call = _current.get()
    return call.caller if call is not None else NOBODY


class Calls(grpc.aio.ServerInterceptor):
    """Puts `around` around each handler."""

    def __init__(
        self,
        *,
        methods: dict[str, Method],
        verifier: Verifier,
        trust_domain: str,
        max_in_flight: int,
        metrics: telemetry.Metrics,
    ) -> None:
        self._methods = methods
        self._verifier = verifier
        self._trust_domain = trust_domain
        self._max_in_flight = max_in_flight
        self._metrics = metrics
        self._running: dict[asyncio.Task[Any], Call] = {}
        self._streams = 0
        """Streams among them; they have a limit of their own and do not count as calls in flight."""
        self._wrapped: dict[str, Handler] = {}
        self._revoked: dict[asyncio.Task[Any], float] = {}
        """Calls whose token was revoked, and when they must have ended."""
        self._changes = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        path = handler_call_details.method
        if (known := self._wrapped.get(path)) is not None:
            return known
        handler = await continuation(handler_call_details)
        method = self._methods.get(path)
        if handler is None or method is None:  # unknown to all, or health and reflection, which have no rules of ours
            return handler
        return self._wrapped.setdefault(path, self._wrap(handler, method))

    async def keep(self) -> None:
        """End calls whose time is over, or whose token was revoked, and write the log, for as long as the process runs.

        One look at all of them many times a second costs less than a timer and a system call for each.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            log.flush()
            now = loop.time()
            self._find_revoked(now)
            for task, call in list(self._running.items()):
                if call.ended is None and call.expires <= now:
                    call.ended = faults.DeadlineTooShort(OVERDUE)
                    task.cancel()
                elif call.ended is None and self._revoked.get(task, now + 1) <= now:
                    call.ended = faults.TokenInvalid()
                    task.cancel()

    def _find_revoked(self, now: float) -> None:
        """Note which calls must end soon; looks at them only when something was revoked."""
        revocations = self._verifier.revocations
        if self._revoked:
            self._revoked = {task: due for task, due in self._revoked.items() if task in self._running}
        if revocations.changes != self._changes:
            self._changes = revocations.changes
            for task, call in self._running.items():
                if revocations.hit(call.caller):
                    self._revoked.setdefault(task, now + LAST_WORD_SECONDS)

    async def around(self, method: Method, work: Work, request: Any, context: Context) -> Any:
        """Everything but the handler; read from top to bottom."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        given = _given(context.invocation_metadata() or ())
        call = _begin(method, given, began, context.time_remaining())
        mark = _current.set(call)
        task: Any = asyncio.current_task(loop)
        self._running[task] = call
        self._streams += method.streams
        fault: faults.Fault | None = None
        span = telemetry.start(call)
        try:
            if not method.streams and len(self._running) > self._max_in_flight + self._streams:
                raise faults.ServerBusy("the server has too many calls in flight; retry")  # noqa: TRY301
            if call.expires - began < LEAST_TIME:
                raise faults.DeadlineTooShort("too little time is left to begin")  # noqa: TRY301
            if call.token and "public" not in method.audience:
                known = self._verifier.known(call.token) or await self._verifier.verify(call.token)
            else:
                known = None
            call.caller = self._identify(call, known, given.get("triptych-tenant", ""), context)
            access.check(method, call.caller)
            if method.streams:
                self._check_streams(call)
            answer = await work(request, context)
            if method.audit and not call.recorded:
                raise RuntimeError(f"{method.path} succeeded and recorded no {method.audit}")  # noqa: TRY301
            return answer  # noqa: TRY300 - what comes below is for failures
        except faults.Fault as raised:
            fault = raised
        except asyncio.CancelledError:
            fault = call.ended or _parting(call, loop.time())
            if call.ended is None:
                raise
            task.uncancel()
        except Exception:  # noqa: BLE001 - the one place where a defect becomes INTERNAL
            _log.exception("unexpected", method=method.path, request_id=call.request_id)
            fault = faults.Internal("internal error; request_id finds the cause in the log", request_id=call.request_id)
        finally:
            del self._running[task]
            self._streams -= method.streams
            _current.reset(mark)
            log.later(self._line, call, fault, loop.time() - began, time.time())
            telemetry.end(span, fault)
        status = to_status(fault.status())
        return await context.abort(
            status.code, status.details, (*status.trailing_metadata, ("x-request-id", call.request_id))
        )

    def _check_streams(self, new: Call) -> None:
        tenant = new.caller.tenant_id
        held = sum(call.method.streams and call.caller.tenant_id == tenant for call in self._running.values())
        if (held > STREAMS_A_TENANT and tenant != SYSTEM_TENANT) or self._streams > self._max_in_flight:
            raise faults.ServerBusy("too many streams are open; end one, or retry", limit=STREAMS_A_TENANT)

    def _identify(self, call: Call, known: Caller | None, tenant: str, context: Context) -> Caller:
        """Who calls: the connection names a service, the token a person or agent; a service alone names its tenant."""
        service = peer_service(context.auth_context(), self._trust_domain)  # type: ignore[arg-type]
        if known is not None:
            if tenant not in ("", known.tenant_id):
                raise faults.CallerNotPermitted("the token is for another tenant", permission=call.method.permission)
            return known.through(service) if service else known
        if service:
            if tenant and not UUID.fullmatch(tenant):
                raise faults.MetadataInvalid("triptych-tenant must be a UUID", key="triptych-tenant")
            return Caller(kind="service", id=service, tenant_id=tenant or SYSTEM_TENANT, service=service)
        return NOBODY

    def _line(self, call: Call, fault: faults.Fault | None, seconds: float, moment: float) -> log.Line:
        """Count a call that has ended, and give its line."""
        code = "OK" if fault is None else fault.code.name
        self._metrics.observe(call.method.path, code, seconds)
        caller = call.caller
        fields: dict[str, Any] = {
            "event": "rpc",
            "method": call.method.path,
            "code": code,
            "ms": round(seconds * 1000, 2),
            "caller": f"{caller.kind}:{caller.id}",
            "tenant": caller.tenant_id,
            "request_id": call.request_id,
        }
        if caller.service:
            fields["via"] = caller.service
        if fault is not None:
            fields["reason"] = fault.reason
        return "error" if code == "INTERNAL" else "info", moment, fields

    def _wrap(self, handler: Handler, method: Method) -> Handler:
        """Put `around` around a handler, whichever of the four shapes it has."""
        handle: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        checked = _each_checked if handler.request_streaming else _check

        def answer(request: Any, context: Any) -> Awaitable[Any]:
            return handle(checked(request), context)  # type: ignore[no-any-return]

        async def write(request: Any, context: Any) -> None:
            async with aclosing(handle(checked(request), context)) as messages:
                async for message in messages:
                    await _write(context, message)

        async def to_unary(request: Any, context: Any) -> Any:
            return await self.around(method, answer, request, context)

        async def to_stream(request: Any, context: Any) -> None:
            await self.around(method, write, request, context)

        shapes = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make: Any = shapes[handler.request_streaming, handler.response_streaming]
        behaviour = to_stream if handler.response_streaming else to_unary
        return make(behaviour, _careful(handler.request_deserializer), handler.response_serializer)  # type: ignore[no-any-return]


def _parting(call: Call, now: float) -> faults.Fault:
    """Say why gRPC cancelled a call: the caller's own time was over, or the caller did not want it any more.

    Its clock began elsewhere, hence the tolerance.
    """
    if call.expires - now < LOOK_SECONDS:
        return faults.DeadlineTooShort(OVERDUE)
    return faults.CallerLeft("the caller has left")


async def _write(context: Any, message: Any) -> None:
    """Send one message of a stream; to a client that has left, it is as if the call were cancelled."""
    try:
        await context.write(message)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _given(metadata: Any) -> dict[str, str]:
    """Metadata by key. What stands twice has a value that fits nowhere: it is not guessed which was meant."""
    given: dict[str, str] = {}
    for key, value in metadata:
        given[key] = value if key not in given else "given twice"
    return given


def _begin(method: Method, given: dict[str, str], now: float, remaining: float | None) -> Call:
    request_id = given.get("x-request-id", "")
    granted = method.deadline if remaining is None else min(method.deadline, remaining)
    return Call(
        method=method,
        request_id=request_id if request_id and REQUEST_ID.fullmatch(request_id) else f"{_PROCESS}{next(_count):012x}",
        token=_token(given.get("authorization")),
        traceparent=given.get("traceparent", ""),
        expires=now + granted,
        caller=NOBODY,
    )


def _token(authorization: str | None) -> str:
    """Take the token out of the header. One that holds none is wrong: nothing else stands in for it."""
    if authorization is None:
        return ""
    scheme, _, token = authorization.partition(" ")
    return token if token and scheme.lower() == "bearer" else "not a bearer token"


def _careful(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Let undecodable bytes through as a mark: gRPC would answer UNKNOWN and name the class."""

    def decode(data: bytes) -> Any:
        try:
            return deserialize(data) if deserialize is not None else data
        except DecodeError:
            return UNDECODABLE

    return decode


async def _each_checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _check(request)


def _check(request: Message | object) -> Message:
    if not isinstance(request, Message):
        raise faults.RequestUndecodable("the request is no message of this method's request type")
    validate(request)
    return request
