"""Logins: how near they come to what Argon2 alone allows, and what a flood of them does to other calls.

The auth service runs in a process of its own, as it is deployed; `python -m tests.bench.logins PORT` is the flood.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import argon2
import grpc
import psutil

from services.cli.stack import settings as files
from services.cli.stack.backends import Backends
from tests.bench.results import Result, ratio
from tests.conftest import TEMPLATE, _migrate
from triptych.auth.v1 import auth_service_pb2 as pb, user_service_pb2 as user_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub

if TYPE_CHECKING:
    from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub
    from triptych.auth.v1.user_service_pb2_grpc import UserServiceAsyncStub

ROUNDS = 5
SECONDS = 4.0
CORES = len(os.sched_getaffinity(0))
CALLERS = 4 * CORES
FLOODERS = 32
PACE = 0.01
"""Seconds between the calls whose time is taken, so that they are not a load themselves."""
PASSWORD = "a lamp, a heron, nine stairs"
HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, salt_len=16)


def rate() -> list[Result]:
    """Logins a second against verifications a second of the same hashes in as many threads as there are cores."""
    return asyncio.run(_with_service(_rate))


def flood() -> list[Result]:
    """The 99th percentile of GetUser while strangers try passwords, against the same without them."""
    return asyncio.run(_with_service(_flood))


async def _with_service(measure: Any) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as folder:
        Path(folder).chmod(0o755)
        backends = Backends(Path(folder) / "stack")
        backends.start()
        try:
            backends.create_database(TEMPLATE)
            await _migrate(backends, TEMPLATE)
            people = await _people(backends)
            async with _service(backends, Path(folder)) as (port, process):
                stack = {"service": process.pid, "PostgreSQL": _pid(backends.postgres), "client": os.getpid()}
                return await measure(port, people, stack)  # type: ignore[no-any-return]
        finally:
            backends.stop()


async def _rate(port: int, people: list[str], stack: dict[str, int]) -> list[Result]:
    pairs, hashing = [], []
    spent: dict[str, list[float]] = {name: [] for name in stack}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        auth = AuthServiceStub(channel)
        devices = dict.fromkeys(people, "")
        await _logins(auth, devices)
        for _ in range(ROUNDS):
            before = {name: _busy(pid) for name, pid in stack.items()}
            logins = await _logins(auth, devices)
            for name, pid in stack.items():
                spent[name].append((_busy(pid) - before[name]) / (logins * SECONDS) * 1000)
            own = time.process_time()
            pairs.append((logins, ceiling := await asyncio.to_thread(_verifications)))
            hashing.append((time.process_time() - own) / (ceiling * SECONDS) * 1000)
    cost = ", ".join(f"{name} {statistics.median(each):.1f}" for name, each in spent.items())
    note = (
        f"logins/s, {CALLERS} callers, Argon2id m=19456 t=2 p=1, {CORES} cores for all of it; processor time is the"
        f" limit: {cost} ms a login, {statistics.median(hashing):.1f} ms a hash alone"
    )
    return [ratio("login_vs_argon2", pairs, goal=">= 0.90", note=note)]


def _busy(pid: int) -> float:
    """Give the seconds of processor time of a process and its children."""
    root = psutil.Process(pid)
    others = [] if pid == os.getpid() else root.children(recursive=True)
    return sum(sum(each.cpu_times()[:2]) for each in (root, *others))


def _pid(server: Any) -> int:
    return int(server.process.pid)


async def _logins(auth: "AuthServiceAsyncStub", devices: dict[str, str]) -> float:
    """Log people in again and again, each with their device, and give logins a second."""
    count, began = 0, time.perf_counter()

    async def caller(people: list[str]) -> None:
        nonlocal count
        while time.perf_counter() < began + SECONDS:
            email = people[count % len(people)]
            request = pb.LoginRequest(email=email, password=PASSWORD, device_token=devices[email])
            devices[email] = (await auth.Login(request)).device_token
            count += 1

    names = list(devices)
    await asyncio.gather(*(caller(names[place::CALLERS]) for place in range(CALLERS)))
    return count / (time.perf_counter() - began)


def _verifications() -> float:
    """Verify as fast as the cores can, and give verifications a second."""
    stored, began = HASHER.hash(PASSWORD), time.perf_counter()

    def verify() -> int:
        count = 0
        while time.perf_counter() < began + SECONDS:
            HASHER.verify(stored, PASSWORD)
            count += 1
        return count

    with ThreadPoolExecutor(CORES) as pool:
        count = sum(work.result() for work in [pool.submit(verify) for _ in range(CORES)])
    return count / (time.perf_counter() - began)


async def _flood(port: int, people: list[str], stack: dict[str, int]) -> list[Result]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        login = await AuthServiceStub(channel).Login(pb.LoginRequest(email=people[0], password=PASSWORD))
        metadata = (("authorization", f"Bearer {login.tokens.access_token}"),)
        users = UserServiceStub(channel)
        await _slowest(users, metadata)
        pairs = []
        for _ in range(ROUNDS):
            idle = await _slowest(users, metadata)
            with subprocess.Popen(
                [sys.executable, "-m", "tests.bench.logins", str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=Path(__file__).resolve().parents[2],
            ) as flooding:
                assert flooding.stdin is not None
                assert flooding.stdout is not None
                await asyncio.to_thread(flooding.stdout.readline)
                pairs.append((await _slowest(users, metadata), idle))
                flooding.stdin.close()
    note = (
        f"seconds, GetUser at {1 / PACE:.0f}/s, {FLOODERS} flooders of unknown addresses, {CORES} cores for all of it"
    )
    return [ratio("login_flood_p99", pairs, goal="<= 2", note=note, kind="time")]


async def _slowest(users: "UserServiceAsyncStub", metadata: Any) -> float:
    """Call at an even pace and give the 99th percentile."""
    taken = []
    for _ in range(round(SECONDS / PACE)):
        began = time.perf_counter()
        await users.GetUser(user_pb.GetUserRequest(), metadata=metadata)
        taken.append(time.perf_counter() - began)
        await asyncio.sleep(max(PACE - taken[-1], 0))
    return statistics.quantiles(taken, n=100)[98]


async def _people(backends: Backends) -> list[str]:
    """Make people who can log in."""
    names = [f"{number}@bench.example" for number in range(8 * CALLERS)]
    superuser = await backends.postgres_server.connect(TEMPLATE)
    await superuser.execute("SET search_path TO auth")
    tenant = await superuser.fetchval("INSERT INTO tenants (slug, display_name) VALUES ('bench', 'b') RETURNING id")
    for name in names:
        user = await superuser.fetchval(
            "INSERT INTO users (email, email_key, display_name, password_hash, verified, default_tenant_id)"
            " VALUES ($1, $1, 'b', $2, true, $3) RETURNING id",
            name,
            HASHER.hash(PASSWORD),
            tenant,
        )
        await superuser.execute(
            "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, 'user')", tenant, user
        )
    await superuser.close()
    return names


@asynccontextmanager
async def _service(backends: Backends, folder: Path) -> AsyncIterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Run the auth service; what it says goes to a file, as on a server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    given = backends.service_settings("auth", database=TEMPLATE)
    given |= {"listen": "127.0.0.1:0", "listen_plaintext": f"127.0.0.1:{port}", "neighbours": {}, "relay_user": ""}
    given |= {"source_logins": 10_000_000, "data_dir": str(folder)}
    given.pop("metrics_listen", None)
    config = folder / "auth.toml"
    config.write_text(files.toml(given))
    with (folder / "auth.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.auth"],
            env={**os.environ, "TRIPTYCH_CONFIG": str(config)},
            stdout=log,
            stderr=log,
            cwd=Path(__file__).resolve().parents[2],
        )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
        yield port, process
    finally:
        process.terminate()
        process.wait(20)


async def _strangers(port: int) -> None:
    """Try passwords of addresses that nobody has until the input ends."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        auth = AuthServiceStub(channel)

        async def stranger() -> None:
            while True:
                try:
                    await auth.Login(pb.LoginRequest(email=f"{uuid.uuid4()}@example.com", password="guess"))
                except grpc.aio.AioRpcError as error:
                    if error.code() not in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}:
                        raise

        strangers = [asyncio.create_task(stranger()) for _ in range(FLOODERS)]
        await asyncio.sleep(0.5)
        print("flooding", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)
        for task in strangers:
            task.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_strangers(int(sys.argv[1])))
