"""The least that keeps a service's promises to its supervisor: settings by file, health, drain on SIGTERM."""

import asyncio
import os
import signal
import sys
import tomllib
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer


async def main(settings: dict[str, str]) -> None:
    server = grpc.aio.server()
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(settings["listen_plaintext"])
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(1)
    print("drained", flush=True)  # noqa: T201 - likewise


SETTINGS = tomllib.loads(Path(os.environ["TRIPTYCH_CONFIG"]).read_text())
print(f"{SETTINGS['service']} starts", flush=True)  # noqa: T201 - the line that the test looks for
if (Path(SETTINGS["data_dir"]) / "broken").exists():
    sys.exit("broken on purpose")
asyncio.run(main(SETTINGS))
