"""What tokens cost: to verify at each call, to refresh, and until a revoked one is refused everywhere."""

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil

from services.cli.stack.backends import Backends
from services.kit.db import Transaction
from tests.auth.people import People, Somebody
from tests.bench import rates
from tests.bench.results import Result, ratio
from tests.conftest import TEMPLATE, _migrate
from tests.suite import Issuer, Suite
from triptych.auth.v1 import auth_service_pb2 as pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.projects.v1 import project_service_pb2 as project_pb
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub

REVOCATIONS = 100
REFRESH_SECONDS = 5.0
REFRESHERS = 16


def token_vs_echo() -> list[Result]:
    """A call with a verified token, and all that surrounds it, against the handler alone."""

    async def run() -> list[Result]:
        issuer = Issuer()
        key = next(iter(await issuer.keys())).public_key.hex()
        given = {"issuer": "https://triptych.local", "key": key}
        claims = {"sub": str(uuid.uuid4()), "tid": str(uuid.uuid4()), "kind": "user", "role": 4}
        async with rates.side("intercepted", given) as ours, rates.side("echo", given) as anchor:
            pairs = await rates.paired(ours, anchor, str(uuid.uuid4()), issuer.token(claims | {"exp": 2**33}))
            cpu = statistics.median(ours.cpu) / statistics.median(anchor.cpu)
        note = f"calls/s, {rates.CALLERS} callers; Ed25519 once, then by hash; server processor time x{cpu:.2f}"
        return [ratio("token_vs_echo", pairs, goal=">= 0.85", note=note)]

    return asyncio.run(run())


def sessions_on_the_stack() -> list[Result]:
    """Refreshes of the auth service, and how soon a revoked session is refused by another service."""
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as folder:
        Path(folder).chmod(0o755)
        backends = Backends(Path(folder) / "stack")
        backends.start()
        try:
            return asyncio.run(_sessions(backends, Path(folder)))
        finally:
            backends.stop()


async def _sessions(backends: Backends, folder: Path) -> list[Result]:
    backends.create_database(TEMPLATE)
    await _migrate(backends, TEMPLATE)
    async with _running(Suite(backends, TEMPLATE, folder / "data")) as people:
        admin = await people.admin()
        return [await _round_trips(people, admin), await _refreshes(people, admin), await _revocation(people)]


@asynccontextmanager
async def _running(suite: Suite) -> AsyncIterator[People]:
    await suite.start("auth", "projects")
    try:
        yield People(suite)
    finally:
        await suite.stop()


async def _round_trips(people: People, admin: Somebody) -> Result:
    """Count the statements of one refresh, those that begin and commit left out."""
    asked = 0
    plain = {name: getattr(Transaction, name) for name in ("one", "run", "all", "many")}

    def counted(name: str) -> Any:
        async def ask(tx: Transaction, *given: Any, **values: Any) -> Any:
            nonlocal asked
            asked += values.get("digest") is not None or values.get("action") == "auth.session.refresh"
            return await plain[name](tx, *given, **values)

        return ask

    for name in plain:
        setattr(Transaction, name, counted(name))
    await people.auth.Refresh(pb.RefreshRequest(refresh_token=admin.login.tokens.refresh_token))
    for name, method in plain.items():
        setattr(Transaction, name, method)
    return Result("refresh_round_trips", asked, "", "<= 2", note="statements beside BEGIN and COMMIT")


async def _refreshes(people: People, admin: Somebody) -> Result:
    """Refresh as fast as it answers, a chain of tokens for each of several sessions."""
    chains = [(await people.login(admin.email)).login.tokens.refresh_token for _ in range(REFRESHERS)]
    end, count = time.perf_counter() + REFRESH_SECONDS, 0

    async def refresher(token: str) -> None:
        nonlocal count
        while time.perf_counter() < end:
            answer = await people.auth.Refresh(pb.RefreshRequest(refresh_token=token))
            token = answer.tokens.refresh_token
            count += 1

    process = psutil.Process()
    before = sum(process.cpu_times()[:2])
    await asyncio.gather(*(refresher(token) for token in chains))
    spent = sum(process.cpu_times()[:2]) - before
    note = f"{count / REFRESH_SECONDS:.0f} a second; client and server in one process, PostgreSQL beside it not counted"
    return Result("refresh_per_core", round(count / spent, 1), "1/s", ">= 150", note=note)


async def _revocation(people: People) -> Result:
    """Log out, and ask another service with the same token until it refuses."""
    projects = people.suite.runtimes["projects"]
    while projects.follower.age > 1:
        await asyncio.sleep(0.01)
    admin = await people.admin()
    target = f"127.0.0.1:{projects.plaintext_port}"
    times = []
    async with grpc.aio.insecure_channel(target) as channel:
        for _ in range(REVOCATIONS):
            somebody = await people.login(admin.email)
            await somebody.stub(AuthServiceStub).Logout(pb.LogoutRequest())
            began = time.perf_counter()
            await _refused(ProjectServiceStub(channel), somebody.login.tokens.access_token)
            times.append(time.perf_counter() - began)
    p99 = statistics.quantiles(times, n=100)[98]
    note = f"from the answer of Logout to a refusal in projects; median {statistics.median(times) * 1000:.1f} ms"
    return Result("revocation_p99_s", round(p99, 3), "s", "<= 1", note=f"{note}, {REVOCATIONS} times")


async def _refused(stub: Any, token: str) -> None:
    while True:
        try:
            await stub.ListProjects(project_pb.ListProjectsRequest(), metadata=(("authorization", f"Bearer {token}"),))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return
            raise
