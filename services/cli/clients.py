"""Calls from the command line: to a service's plaintext port, as somebody, with a request_id for each change.

Failures are the kit's faults. A change gets a fresh request_id, so that a retry changes nothing twice.
"""

import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from services.kit import faults
from services.kit.clients import OPTIONS

Stub = TypeVar("Stub")


class Client:
    """The services of one installation, as one caller."""

    def __init__(self, addresses: dict[str, str], token: str = "") -> None:
        self._addresses = addresses
        self.token = token
        """Access token; empty: nobody."""
        self._stubs: dict[Any, Any] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    def stub(self, kind: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """Give the stub of a gRPC service; triptych.projects.v1.… is served by projects."""
        if kind not in self._stubs:
            service = str(kind.__module__).split(".")[1]
            if service not in self._channels:
                self._channels[service] = self._channel(service)
            self._stubs[kind] = kind(self._channels[service])
        return self._stubs[kind]  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()

    def _channel(self, service: str) -> grpc.aio.Channel:
        interceptors: list[Any] = [_Unary(self, service), _Stream(self, service), _Upload(self, service)]
        options = [pair for pair in OPTIONS if pair[0] != "grpc.service_config"]
        return grpc.aio.insecure_channel(self._addresses[service], interceptors=interceptors, options=options)


class _Outgoing:
    def __init__(self, client: Client, service: str) -> None:
        self._client = client
        self._service = service

    def _outfitted(self, details: Any) -> grpc.aio.ClientCallDetails:
        metadata = list(details.metadata or ())
        if self._client.token:
            metadata.append(("authorization", f"Bearer {self._client.token}"))
        return grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=details.timeout,
            metadata=grpc.aio.Metadata(*metadata),
            credentials=None,
            wait_for_ready=True,
        )


class _Unary(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid.uuid4())
        call = await continuation(self._outfitted(client_call_details), request)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise faults.from_error(error, service=self._service) from None
        return call


class _Stream(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._outfitted(client_call_details), request)


class _Upload(_Outgoing, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        call = await continuation(self._outfitted(client_call_details), request_iterator)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise faults.from_error(error, service=self._service) from None
        return call
