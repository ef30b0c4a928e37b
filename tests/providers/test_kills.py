"""kill -9 of callers and of the service, a hundred times: nothing stays held, nothing is counted twice or lost."""

import asyncio
import json
import os
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.kit.server import Runtime
from services.providers import owners
from services.providers.bookings import Bookings
from services.providers.budgets import Budgets
from services.providers.counters import Counters
from services.providers.drifts import Drifts
from services.providers.owners import Owner
from services.providers.rebuilds import Rebuilds
from tests.patience import SECONDS, eventually, many_rounds, within
from tests.providers.conftest import AddProvider
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import quota_service_pb2 as pb
from triptych.providers.v1.quota_pb2 import Quota
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, CALLERS = 17, 5


class Victims:
    """Starts processes and kills them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.killed = 0

    async def start(self, order: dict[str, Any]) -> tuple[int, int]:
        """Give pid and port."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order, default=str).encode() + b"\n")
        pid, port = (await within(self._process.stdout.readline())).split()
        return int(pid), int(port)

    def kill(self, pid: int) -> None:
        """End one without a word."""
        os.kill(pid, signal.SIGKILL)
        self.killed += 1

    async def close(self) -> None:
        """End all, also who never told its pid, and the program that made them."""
        os.killpg(self._process.pid, signal.SIGKILL)
        await within(self._process.wait())


@pytest.fixture
async def victims() -> AsyncIterator[Victims]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.providers.victims",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    running = Victims(process)
    yield running
    await running.close()


@many_rounds
async def test_after_a_hundred_kills_nothing_is_held_and_counters_are_the_ledger(  # noqa: PLR0917 - fixtures
    suite: Suite, runtime: Runtime, admin: Person, add_provider: AddProvider, victims: Victims, store: Redis,
    superuser: Any,
) -> None:  # fmt: skip
    provider = await add_provider()
    person = admin.colleague(Role.ROLE_USER)
    quota = Quota(owner=Principal(kind=PrincipalKind.PRINCIPAL_KIND_USER, id=person.id), daily_requests=1_000_000)
    await admin.stub(QuotaServiceStub).SetQuota(pb.SetQuotaRequest(quota=quota))
    key = next(iter(await suite.issuer.keys())).public_key.hex()
    settings = suite.values("providers", relay_user="", neighbours={}, log_level="error")
    uses, worked = "SELECT count(*) FROM usage_events WHERE tenant_id = $1", 0
    for _ in range(ROUNDS):
        service, port = await victims.start({"settings": settings, "key": key})
        order = {"port": port, "token": person.token, "provider_id": provider.id}
        callers = [(await victims.start(order))[0] for _ in range(CALLERS)]
        await eventually(partial(superuser.fetchval, f"{uses} HAVING count(*) >= $2", person.tenant_id, worked + 3))
        for pid in callers[:-1]:
            await asyncio.sleep(random.uniform(0, 0.05))  # noqa: S311 - no secret
            victims.kill(pid)
        victims.kill(service)
        victims.kill(callers[-1])
        worked = await superuser.fetchval(uses, person.tenant_id)
    assert victims.killed >= 100
    counters = Counters(store)
    rebuilds, budgets = Rebuilds(db=runtime.db, counters=counters), Budgets(db=runtime.db, counters=counters)
    bookings = Bookings(db=runtime.db, counters=counters, rebuilds=rebuilds, budgets=budgets)
    drifts = Drifts(db=runtime.db, counters=counters, rebuilds=rebuilds, budgets=budgets, registry=CollectorRegistry())
    stub, tenant_id = person.stub(QuotaServiceStub), person.tenant_id
    whose = (Owner("user", person.id), owners.tenant(tenant_id))
    async with asyncio.timeout(SECONDS):
        while True:
            await bookings.sweep()
            answer = await stub.GetQuota(pb.GetQuotaRequest())
            off = [await drifts._differences(tenant_id, owner) for owner in whose]
            left = await superuser.fetchval(
                "SELECT count(*) FROM reservations WHERE tenant_id = $1"
                " AND (state = 'held' OR state = 'committed' AND NOT counted)", tenant_id,
            )  # fmt: skip
            left += await superuser.fetchval("SELECT count(*) FROM usage_charges WHERE tenant_id = $1", tenant_id)
            if not left and not any(off) and answer.windows[0].held == "0":
                break
            await asyncio.sleep(0.2)
    events = "SELECT count(*), coalesce(sum(cost_nano), 0)::bigint AS nano FROM usage_events WHERE tenant_id = $1"
    ledger = await superuser.fetchrow(events, tenant_id)
    committed = await superuser.fetchval(
        "SELECT count(*) FROM reservations WHERE tenant_id = $1 AND state = 'committed'", tenant_id
    )
    records = await superuser.fetchval("SELECT count(record_id) FROM usage_events WHERE tenant_id = $1", tenant_id)
    assert ledger["count"] == committed + records >= 3 * ROUNDS
    held = await stub.ReserveQuota(
        pb.ReserveQuotaRequest(provider_id=provider.id, operation="review", request_id=str(uuid.uuid4()))
    )
    await stub.ReleaseReservation(pb.ReleaseReservationRequest(reservation_id=held.reservation.id))
    for owner in whose:  # whichever counters were lost or never told, they are the ledger now
        account = await drifts_account(drifts, tenant_id, owner, runtime)
        standing = await counters.read(account)
        assert standing is not None
        assert set(standing.held.values()) == {0}
        assert standing.committed["daily_requests"] == ledger["count"]
        assert standing.committed["monthly_cost_usd"] == ledger["nano"]


async def drifts_account(drifts: Drifts, tenant_id: str, owner: Owner, runtime: Runtime) -> Any:
    from services.providers.drifts import _account

    async with runtime.db.begin(tenant=tenant_id) as tx:
        return await _account(tx, tenant_id, owner)
