"""Calls to other services: mutual TLS, the rest of the deadline, the request id, the caller's token; and their faults.

Neighbours fail with the same Fault classes as our own code. UNAVAILABLE is retried by the channel, which is safe
because every mutation carries a request_id.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import grpc
import orjson

from services.kit import calls, faults
from services.kit.access import SYSTEM_TENANT
from services.kit.identity import Identity

MARGIN = 0.02
"""Seconds kept for ourselves, so that the layer which was slow is the one that reports it."""
BACKGROUND_SECONDS = 10.0
OLD_CHANNEL_SECONDS = 60.0
SERVICE_CONFIG = orjson.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 50, "tokenRatio": 0.2},
    }
).decode()
OPTIONS = [
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
StubType = TypeVar("StubType")
Outfit: TypeAlias = Callable[[Any, Any], grpc.aio.ClientCallDetails]
"""Makes the details of a call, and its request (None for a stream), ready to leave."""


class Neighbours:
    """The other services, as this one may call them."""

    def __init__(self, *, targets: dict[str, str], identity: Identity) -> None:
        self.targets = targets
        """Name of each service and its gRPC target; read when a channel is made."""
        self._identity = identity
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stubs: dict[tuple[str, Any], Any] = {}
        self._closing: set[asyncio.Task[None]] = set()
        identity.on_renewal(self._renew)

    def stub(self, service: str, kind: Callable[[grpc.aio.Channel], StubType]) -> StubType:
        """Give the stub of a neighbour's gRPC service. Ask again for each call: certificates and channels change."""
        found = self._stubs.get((service, kind))
        if found is None:
            found = self._stubs[service, kind] = kind(self._channel(service))
        return found

    async def close(self) -> None:
        """Close all channels."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            if service not in self.targets:
                raise faults.DependencyUnavailable(f"no address of {service} is known", dependency=service)
            self._channels[service] = grpc.aio.secure_channel(
                self.targets[service],
                self._identity.channel_credentials(),
                options=[*OPTIONS, ("grpc.ssl_target_name_override", service)],
                interceptors=interceptors(service, _outfitted),
            )
        return self._channels[service]

    def _renew(self) -> None:
        """Begin new channels with the new certificate; calls under way on the old ones may end."""
        old, self._channels = self._channels, {}
        self._stubs.clear()
        for channel in old.values():
            task = asyncio.create_task(_close_later(channel))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _close_later(channel: grpc.aio.Channel) -> None:
    await asyncio.sleep(OLD_CHANNEL_SECONDS)
    await channel.close()


def interceptors(service: str, outfit: Outfit) -> list[Any]:
    """Interceptors of a channel: each call is outfitted first, and a unary answer fails with our faults.

    A stream of answers fails with gRPC's own error when it is read; `faults.from_error` turns it into a fault.
    """
    return [_Unary(service, outfit), _Stream(service, outfit), _Upload(service, outfit)]


class _Interceptor:
    def __init__(self, service: str, outfit: Outfit) -> None:
        self._service = service
        self._outfit = outfit

    async def _answered(self, call: Any) -> Any:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise faults.from_error(error, service=self._service) from None
        return call


class _Unary(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._answered(await continuation(self._outfit(client_call_details, request), request))


class _Stream(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._outfit(client_call_details, request), request)


class _Upload(_Interceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        details = self._outfit(client_call_details, None)
        return await self._answered(await continuation(details, request_iterator))


def adding(details: Any, *, metadata: Iterable[tuple[str, str]], timeout: float | None) -> grpc.aio.ClientCallDetails:
    """Give the details of a call with more metadata and this deadline."""
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=timeout,
        metadata=grpc.aio.Metadata(*(details.metadata or ()), *metadata),
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )


def _outfitted(details: Any, _: Any) -> grpc.aio.ClientCallDetails:
    """What travels along with the RPC that is being served; background work has a deadline and an id of its own."""
    call = calls.current()
    if call is None:
        metadata = [("x-request-id", str(uuid.uuid4()))]
        return adding(details, metadata=metadata, timeout=details.timeout or BACKGROUND_SECONDS)
    left = call.expires - asyncio.get_running_loop().time() - MARGIN
    if left <= 0:
        raise faults.DeadlineTooShort("no time is left to ask another service")
    metadata = [("x-request-id", call.request_id)]
    if call.token:
        metadata.append(("authorization", f"Bearer {call.token}"))
    elif call.caller.tenant_id not in ("", SYSTEM_TENANT):
        metadata.append(("triptych-tenant", call.caller.tenant_id))
    if call.traceparent:
        metadata.append(("traceparent", call.traceparent))
    return adding(details, metadata=metadata, timeout=min(left, details.timeout or left))


def of_tenant(tenant_id: str) -> tuple[tuple[str, str], ...]:
    """Metadata for background work on behalf of a tenant: `stub.Method(request, metadata=of_tenant(...))`."""
    return (("triptych-tenant", tenant_id),)
