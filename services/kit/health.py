"""Health by the standard protocol, with Watch: a name per gRPC service and "" for the process. Follows PostgreSQL."""

import asyncio

import structlog
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse

from services.kit.db import Database

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
EVERY_SECONDS = 2.0
FAILURES = 2
"""Checks that must fail in a row before it says NOT_SERVING."""
_log = structlog.get_logger()


class Health:
    """What this process says about itself."""

    def __init__(self, services: list[str]) -> None:
        self.servicer = health.aio.HealthServicer()
        self._names = ["", *services]

    async def say(self, status: int) -> None:
        """Set the status of all names."""
        for name in self._names:
            await self.servicer.set(name, status)

    async def watch(self, db: Database) -> None:
        """Follow the database for as long as the process runs."""
        failures = 0
        while True:
            failures = 0 if await db.alive() else failures + 1
            if failures == FAILURES:
                _log.warning("not serving", dependency="postgres")
                await self.say(NOT_SERVING)
            elif failures == 0:
                await self.say(SERVING)
            await asyncio.sleep(EVERY_SECONDS)

    async def leave(self) -> None:
        """Say NOT_SERVING for good: the process is about to stop."""
        await self.servicer.enter_graceful_shutdown()
