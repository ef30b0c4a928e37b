"""The reference worker: `python -m services.worker --production 127.0.0.1:7550 --token-file FILE --root FOLDER`.

It runs static and graph tasks, one at a time; start several for more. SIGTERM lets the task at hand end.
"""

import argparse
import asyncio
import signal
import socket
from pathlib import Path

import grpc

from services.kit import log
from services.worker.work import Worker

LOOPBACK = ("127.0.0.1:", "localhost:", "[::1]:")


def main() -> None:
    """Run until SIGTERM, or with --once until nothing waits."""
    parser = argparse.ArgumentParser(prog="services.worker", description="Runs static and graph tasks of analyses.")
    parser.add_argument("--production", required=True, help="address of the production service, HOST:PORT")
    parser.add_argument("--token-file", required=True, type=Path, help="access token; read again for each call")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="folder outside of which nothing is read")
    parser.add_argument("--ca-file", type=Path, help="certificate authority for TLS; without it only loopback")
    parser.add_argument("--name", default=f"{socket.gethostname()}-worker", help="name shown with its tasks")
    parser.add_argument("--once", action="store_true", help="end when nothing waits")
    options = parser.parse_args()
    if options.ca_file is None and not options.production.startswith(LOOPBACK):
        parser.error("--production is not loopback: give --ca-file, or the token would travel in the clear")
    log.configure(service="worker", level="info")
    asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _channel(options) as channel:
        worker = Worker(channel=channel, token_file=options.token_file, root=options.root, name=options.name)
        await worker.run(stop, once=options.once)


def _channel(options: argparse.Namespace) -> grpc.aio.Channel:
    if options.ca_file is None:
        return grpc.aio.insecure_channel(options.production)
    return grpc.aio.secure_channel(options.production, grpc.ssl_channel_credentials(options.ca_file.read_bytes()))


if __name__ == "__main__":
    main()
