"""Processes to be killed: `python -m tests.providers.victims < orders`, one order in JSON a line, one pid a line back.

The program only imports and forks, so that a victim starts in a fraction of a second: {"settings": ..., "key": ...} is
the service, {"port": ..., "token": ..., "provider_id": ...} somebody who calls it without end.
"""

import asyncio
import faulthandler
import json
import os
import random
import signal
import sys
import uuid
from typing import Any

import grpc
import uvloop

from services.kit import log
from services.kit.server import Runtime
from services.kit.tokens import SigningKey
from services.providers import __main__ as main
from triptych.providers.v1 import quota_service_pb2 as pb, usage_pb2, usage_service_pb2 as usage_pb
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub

HOLD_SECONDS = 10
ANSWERS = os.dup(sys.stdout.fileno())
"""Where pids are told; standard output is the log's, and what it has to say is no answer."""
START_SECONDS = 15
"""After which a victim that does not start says on standard error where it is."""


async def serve(order: dict[str, Any]) -> None:
    """Be the service until killed."""
    runtime = Runtime(main.SETTINGS.of(order["settings"]))

    async def keys() -> list[SigningKey]:
        return [SigningKey("test", bytes.fromhex(order["key"]), 0, 2**40)]

    runtime.trust(keys)
    await main.wire(runtime)
    await runtime.listen()
    tell(runtime.plaintext_port)
    await asyncio.Event().wait()


async def call(order: dict[str, Any]) -> None:
    """Reserve, commit, release and report until killed."""
    metadata = (("authorization", f"Bearer {order['token']}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{order['port']}") as channel:
        quotas: Any = QuotaServiceStub(channel)
        usage: Any = UsageServiceStub(channel)
        tell(order["port"])

        async def one() -> None:
            request = pb.ReserveQuotaRequest(
                provider_id=order["provider_id"], operation="review", estimated_input_tokens=10,
                hold_seconds=HOLD_SECONDS, request_id=random.choice(["", str(uuid.uuid4())]),  # noqa: S311 - no secret
            )  # fmt: skip
            held = (await quotas.ReserveQuota(request, metadata=metadata)).reservation
            end = random.random()  # noqa: S311 - no secret
            if end < 0.5:
                commit = pb.CommitReservationRequest(reservation_id=held.id, input_tokens=7)
                await quotas.CommitReservation(commit, metadata=metadata)
            elif end < 0.7:
                await quotas.ReleaseReservation(pb.ReleaseReservationRequest(reservation_id=held.id), metadata=metadata)
            record = usage_pb2.UsageRecord(
                id=str(uuid.uuid4()), provider_id=order["provider_id"], operation="embedding", input_tokens=3
            )
            await usage.RecordUsage(usage_pb.RecordUsageRequest(records=[record]), metadata=metadata)

        async def forever() -> None:
            while True:
                try:
                    await one()
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.02)

        await asyncio.gather(*(forever() for _ in range(3)))


def tell(port: int) -> None:
    """Say who this is and where."""
    os.write(ANSWERS, f"{os.getpid()} {port}\n".encode())
    faulthandler.cancel_dump_traceback_later()


def run() -> None:
    """Fork a victim for each order."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        order = json.loads(line)
        if os.fork() == 0:
            random.seed()
            faulthandler.dump_traceback_later(START_SECONDS)
            log.configure(service="providers", level="error")
            uvloop.run(serve(order) if "settings" in order else call(order))
            os._exit(0)


if __name__ == "__main__":
    run()
