"""Metrics (Prometheus, on a side port) and traces (OpenTelemetry, when a collector is configured)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

if TYPE_CHECKING:
    from services.kit.calls import Call
    from services.kit.faults import Fault
    from services.kit.settings import Settings

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_tracer: trace.Tracer | None = None


class Metrics:
    """What a service counts about its RPCs and its outbox."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._rpcs = Histogram(
            "triptych_rpc_seconds",
            "RPCs: how many, how long",
            ["method", "code"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.outbox_delivered = Counter("triptych_outbox_delivered", "Audit events delivered", registry=self.registry)
        self._revocations_age = Gauge(
            "triptych_revocations_age_seconds",
            "How long ago auth last told all that was revoked; a second or less while it does",
            registry=self.registry,
        )
        self._known: dict[tuple[str, str], Histogram] = {}

    def observe(self, method: str, code: str, seconds: float) -> None:
        """Count one RPC."""
        found = self._known.get((method, code))
        if found is None:
            found = self._known[method, code] = self._rpcs.labels(method, code)
        found.observe(seconds)

    def watch_revocations(self, age: Callable[[], float]) -> None:
        """Show how old the knowledge of revocations is, whenever somebody asks."""
        self._revocations_age.set_function(age)

    def serve(self, address: str) -> None:
        """Serve /metrics on this address, from a thread of its own."""
        host, _, port = address.rpartition(":")
        start_http_server(int(port), host, registry=self.registry)


def configure(settings: Settings) -> None:
    """Send traces to the configured collector; without one, tracing costs nothing."""
    global _tracer  # noqa: PLW0603 - OpenTelemetry's provider is global to the process as well
    if not settings.otlp_endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - costs 15 MB
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": f"triptych-{settings.service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.otlp_endpoint, insecure=True)))
    trace.set_tracer_provider(provider)
    _tracer = trace.get_tracer("triptych")


def start(call: Call) -> trace.Span | None:
    """Begin the span of an RPC, as a child of the caller's."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    parent = TraceContextTextMapPropagator().extract({"traceparent": call.traceparent})
    service, _, method = call.method.path.strip("/").partition("/")
    span = _tracer.start_span(
        call.method.path.strip("/"),
        context=parent,
        kind=trace.SpanKind.SERVER,
        attributes={
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "triptych.request_id": call.request_id,
        },
    )
    context = span.get_span_context()
    call.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return span


def end(span: trace.Span | None, fault: Fault | None) -> None:
    """End the span of an RPC."""
    if span is None:
        return
    code = grpc.StatusCode.OK if fault is None else fault.code
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if fault is not None:
        span.set_status(trace.Status(trace.StatusCode.ERROR, fault.reason))
    span.end()
