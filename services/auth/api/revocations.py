"""The RPC of RevocationService."""

import asyncio
from collections.abc import AsyncIterator

from services.auth.broadcasts import Broadcast
from services.kit import calls
from triptych.auth.v1 import revocation_service_pb2 as pb, revocation_service_pb2_grpc

MARGIN = 1.0
"""Seconds before its deadline at which a stream ends by itself."""


class Revocations(revocation_service_pb2_grpc.RevocationServiceServicer):
    """Tells services which access tokens count no more."""

    def __init__(self, *, broadcast: Broadcast) -> None:
        self._broadcast = broadcast

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, context: object
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        call = calls.current()
        left = call.expires - asyncio.get_running_loop().time() if call is not None else 0
        async for message in self._broadcast.read(left - MARGIN):
            yield message
