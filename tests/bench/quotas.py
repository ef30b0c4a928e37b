"""Quotas: a reservation over the wire against its script alone, and the ledger against bare inserts.

Both sides of each pair run in turn against the same servers; the services and their database are real and durable.
"""

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import grpc

from services.cli.stack.backends import Backends
from services.kit import faults, valkey
from services.kit.clients import adding, interceptors
from services.providers.counters import PLACES, Account, Accounts, Counters, Hold
from services.providers.owners import Owner, tenant
from services.providers.windows import NAMES, Want
from tests.bench.results import Result, ratio
from tests.conftest import TEMPLATE, _migrate
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    provider_service_pb2 as provider_pb,
    quota_service_pb2 as pb,
    usage_pb2,
    usage_service_pb2 as usage_pb,
)
from triptych.providers.v1.provider_pb2 import Provider, ProviderType
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub
from triptych.providers.v1.quota_pb2 import Quota
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub

ROUNDS, CALLS = 7, 150
BATCH, BATCHES, AT_ONCE, REPEATED = 500, 4, 4, 0.1
# What somebody writes by hand who wants each use once: the same columns, one statement for each row.
BARE = """
CREATE TABLE bare (
    tenant_id uuid NOT NULL, owner_kind text NOT NULL, owner_id text NOT NULL, record_id uuid NOT NULL,
    provider_id uuid NOT NULL, operation text NOT NULL, input_tokens bigint NOT NULL, output_tokens bigint NOT NULL,
    cost_usd numeric(20,12) NOT NULL, create_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, owner_kind, owner_id, record_id))
"""
INSERT = """
INSERT INTO bare (tenant_id, owner_kind, owner_id, record_id, provider_id, operation, input_tokens, output_tokens,
                  cost_usd)
VALUES ($1, 'user', $2, $3, $4, 'review', 100, 10, 0.12) ON CONFLICT DO NOTHING
"""


class Bench(NamedTuple):
    """Somebody, and the service that answers them."""

    admin: Person
    channel: grpc.aio.Channel
    suite: Suite


def measure() -> list[Result]:
    """Start the servers and measure both pairs."""
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as folder:
        Path(folder).chmod(0o755)
        backends = Backends(Path(folder) / "stack")
        backends.start()
        try:
            return asyncio.run(_measure(backends, Path(folder)))
        finally:
            backends.stop()


async def _measure(backends: Backends, folder: Path) -> list[Result]:
    backends.create_database(TEMPLATE)
    await _migrate(backends, TEMPLATE)
    async with _served(backends, folder) as bench:
        given: Any = {"name": "bench", "type": ProviderType.PROVIDER_TYPE_LOCAL, "model_name": "m"}
        given |= {"max_tokens": 100, "timeout_seconds": 30, "input_cost_usd_per_1k": "1"}
        request = provider_pb.CreateProviderRequest(provider=Provider(**given))
        catalogue: Any = ProviderServiceStub(bench.channel)
        provider = (await catalogue.CreateProvider(request)).provider
        owner = Principal(kind=PrincipalKind.PRINCIPAL_KIND_USER, id=bench.admin.id)
        unlimited = pb.SetQuotaRequest(quota=Quota(owner=owner, daily_requests=10**9, monthly_cost_usd="1000000"))
        quotas: Any = QuotaServiceStub(bench.channel)
        await quotas.SetQuota(unlimited)
        return [await _reserve(bench, provider), await _ledger(bench, provider)]


@asynccontextmanager
async def _served(backends: Backends, folder: Path) -> AsyncIterator[Bench]:
    """The service in a process of its own."""
    suite = Suite(backends, TEMPLATE, folder)
    settings = suite.values("providers", relay_user="", log_level="error")
    (folder / "providers").mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.providers.victims", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    key = next(iter(await suite.issuer.keys())).public_key.hex()
    process.stdin.write(json.dumps({"settings": settings, "key": key}, default=str).encode() + b"\n")
    pid, port = map(int, (await process.stdout.readline()).split())
    admin = suite.person(Role.ROLE_ADMIN)
    metadata = (("authorization", f"Bearer {admin.token}"),)

    def outfit(details: Any, _: Any) -> grpc.aio.ClientCallDetails:
        return adding(details, metadata=() if details.metadata else metadata, timeout=30)

    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=interceptors("peer", outfit)) as channel:
            yield Bench(admin, channel, suite)
    finally:
        os.kill(pid, signal.SIGKILL)
        process.stdin.close()
        await process.wait()


async def _reserve(bench: Bench, provider: Provider) -> Result:
    """One after the other, as a caller that waits for its answer; seconds, the median of each round."""
    stub: Any = QuotaServiceStub(bench.channel)
    store = valkey.connect(bench.suite.settings("providers"))
    counters, tenant_id = Counters(store), str(uuid.uuid4())
    now = datetime.now(UTC)
    own, whole = (Account(tenant_id, who, 1, now) for who in (Owner("user", bench.admin.id), tenant(tenant_id)))
    for account in (own, whole):
        await counters.load(account, dict.fromkeys(NAMES, 0), [])
    limits = dict.fromkeys(PLACES) | {"daily_requests": 10**9, "monthly_cost_usd": 10**15}
    request = pb.ReserveQuotaRequest(provider_id=provider.id, operation="review", estimated_input_tokens=100)

    async def ours() -> None:
        await stub.ReserveQuota(request)

    async def anchor() -> None:
        hold = Hold(str(uuid.uuid4()), Want(100, 100_000_000), now.date(), now + timedelta(seconds=120))
        await counters.reserve(Accounts(own, whole), hold, limits)

    async def refused() -> None:
        with suppress(faults.InvalidArgument):
            await stub.ReserveQuota(pb.ReserveQuotaRequest())

    for each in (ours, anchor, refused):
        await _median(each)
    pairs = [(await _median(ours), await _median(anchor)) for _ in range(ROUNDS)]
    bare = statistics.median([await _median(refused) for _ in range(ROUNDS)])
    await store.aclose()
    note = f"seconds at p50, one caller; durable row and audit event; the RPC alone, refused at once: {bare:.6f}"
    return ratio("reserve_p50_vs_evalsha", pairs, goal="<= 2.5", note=note, kind="time")


async def _median(call: Callable[[], Awaitable[None]]) -> float:
    spent = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await call()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


async def _ledger(bench: Bench, provider: Provider) -> Result:
    """Rows a second: RecordUsage in requests of 500 against bare inserts in transactions of 500, a tenth repeated."""
    server, admin = bench.suite.backends.postgres_server, bench.admin
    pool = await asyncpg.create_pool(
        host=server.host, port=server.port, user=server.user, password=server.password, database=TEMPLATE,
        min_size=AT_ONCE, max_size=AT_ONCE,
    )  # fmt: skip
    await pool.execute(BARE)
    stub: Any = UsageServiceStub(bench.channel)
    people, counted = [admin.colleague(Role.ROLE_USER) for _ in range(AT_ONCE)], 0
    tokens = [(("authorization", f"Bearer {person.token}"),) for person in people]

    async def ours(ids: list[uuid.UUID], who: int) -> None:
        nonlocal counted
        records = [
            usage_pb2.UsageRecord(
                id=str(each), provider_id=provider.id, operation="review", input_tokens=100, output_tokens=10
            )
            for each in ids
        ]
        answer = await stub.RecordUsage(usage_pb.RecordUsageRequest(records=records), metadata=tokens[who])
        counted += answer.recorded

    async def anchor(ids: list[uuid.UUID], who: int) -> None:
        async with pool.acquire() as connection, connection.transaction():
            rows = [(admin.tenant_id, people[who].id, each, provider.id) for each in ids]
            await connection.executemany(INSERT, rows)

    for each in (ours, anchor):
        await _rate(each)
    counted = 0
    pairs = [(await _rate(ours), await _rate(anchor)) for _ in range(ROUNDS)]
    fresh = BATCH + (BATCHES - 1) * (BATCH - int(BATCH * REPEATED))
    assert counted == ROUNDS * AT_ONCE * fresh, "a record was lost or charged twice"
    await pool.execute("DROP TABLE bare")
    await pool.close()
    note = f"rows/s, {AT_ONCE} reporters, {BATCH} rows a request, {REPEATED:.0%} of them repeated; none lost or doubled"
    return ratio("ledger_vs_insert", pairs, goal=">= 0.5", note=note)


async def _rate(act: Callable[[list[uuid.UUID], int], Awaitable[None]]) -> float:
    """Everybody at once, each one request after the other; a tenth of all but the first were sent before."""
    share = int(BATCH * REPEATED)

    async def one(who: int) -> None:
        first = [uuid.uuid4() for _ in range(BATCH)]
        for number in range(BATCHES):
            fresh = [uuid.uuid4() for _ in range(BATCH - share)]
            await act(first if number == 0 else first[:share] + fresh, who)

    began = time.perf_counter()
    await asyncio.gather(*(one(who) for who in range(AT_ONCE)))
    return AT_ONCE * BATCHES * BATCH / (time.perf_counter() - began)
