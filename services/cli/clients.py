"""Calls from the command line: to a service's plaintext port, as somebody, with a request_id for each change.

Failures are the kit's faults. A change gets a fresh request_id, so that a retry changes nothing twice.
"""

import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from services.kit.clients import OPTIONS, adding, interceptors

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
        options = [pair for pair in OPTIONS if pair[0] != "grpc.service_config"]
        address = self._addresses[service]
        return grpc.aio.insecure_channel(address, interceptors=interceptors(service, self._outfit), options=options)

    def _outfit(self, details: Any, request: Any) -> grpc.aio.ClientCallDetails:
        if request is not None and "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid.uuid4())
        metadata = [("authorization", f"Bearer {self.token}")] if self.token else []
        return adding(details, metadata=metadata, timeout=details.timeout)
