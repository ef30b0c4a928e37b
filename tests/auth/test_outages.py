"""Valkey and OpenBao are killed while people log in: nobody gets past anything, and it recovers without a restart."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.auth import addresses
from services.cli.stack.backends import Backends
from services.kit import valkey
from tests.auth.authenticators import Passkey
from tests.auth.holders import Holder, add_passkey, enroll
from tests.auth.people import PASSWORD, People
from tests.conftest import TEMPLATE, _migrate
from tests.patience import SECONDS, eventually, until
from tests.refusals import outcome
from tests.suite import Suite
from triptych.auth.v1 import auth_service_pb2 as pb, factor_service_pb2 as factor_pb
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[Suite]:
    """Servers that may be killed: nobody else uses them."""
    home = Path(tempfile.mkdtemp(prefix="triptych-outages-"))
    home.chmod(0o755)  # noqa: ASYNC240 - the database's own user must pass; nothing else runs yet
    backends = Backends(home / "stack", durable=False)
    backends.start()
    try:
        backends.create_database(TEMPLATE)
        await _migrate(backends, TEMPLATE)
        suite = Suite(backends, TEMPLATE, home)
        try:
            await suite.start("auth")
            yield suite
        finally:
            await suite.stop()
    finally:
        backends.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def holder(own: Suite) -> Holder:
    made = await enroll(await People(own).admin())
    await made.forget_steps()
    return made


def kill(server: Any) -> None:
    """End a server's process as a fault of the machine would."""
    server.process.popen.kill()
    server.process.popen.wait(SECONDS)


@asynccontextmanager
async def load(people: People) -> AsyncIterator[dict[str, Counter[str]]]:
    """Let somebody log in, and somebody guess, again and again; give what they are told."""
    owner, guessed = await people.admin(), await people.admin()
    told: dict[str, Counter[str]] = {"right": Counter(), "wrong": Counter()}

    async def repeat(kind: str, address: str, password: str) -> None:
        while True:
            request = pb.LoginRequest(email=address, password=password)
            told[kind][await outcome(people.auth.Login(request))] += 1

    tasks = [
        asyncio.create_task(repeat(*each))
        for each in (("right", owner.email, PASSWORD), ("wrong", guessed.email, "a guess"))
    ]
    try:
        yield told
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def more(counter: Counter[str], reason: str, count: int = 5) -> None:
    """Wait for so many more of these answers."""
    wanted = counter[reason] + count
    await until(lambda: counter[reason] >= wanted)


async def counted(own: Suite) -> int:
    """Say how many sources Valkey counts."""
    client = valkey.connect(own.settings("auth"))
    try:
        return len([key async for key in client.scan_iter("auth:source:*")])
    finally:
        await client.aclose()


async def test_without_valkey_sources_are_limited_as_before_and_logins_go_on(own: Suite) -> None:
    people, server = People(own), own.backends.valkey
    async with load(people) as told, people.server(source_logins=3) as limited:
        await more(told["right"], "")
        kill(server)
        try:
            await more(told["right"], "", 20)
            await more(told["wrong"], "LOGIN_FAILED", 20)
            request = pb.LoginRequest(email=people.address(), password="x")
            found = Counter([await outcome(limited.Login(request)) for _ in range(10)])
            assert found["LOGIN_RATE"] >= 4  # of ten at most three pass in one minute, and six in two
            assert set(found) <= {"LOGIN_RATE", "LOGIN_FAILED"}
        finally:
            server.start()
            await asyncio.to_thread(server.wait)
        await eventually(lambda: counted(own))
        await more(told["right"], "")
    assert set(told["right"]) == {""}
    assert set(told["wrong"]) == {"LOGIN_FAILED"}


async def test_without_openbao_codes_wait_and_nothing_is_counted(own: Suite, holder: Holder) -> None:
    people, server, somebody = People(own), own.backends.openbao, holder.somebody
    await add_passkey(somebody, passkey := Passkey())
    newcomer = await people.admin()
    await newcomer.reauthenticate()
    ticket = await holder.ticket()
    async with load(people) as told:
        await more(told["right"], "")
        kill(server)
        try:
            for code in (holder.app.code(), holder.app.wrong()):
                for call in (holder.complete(ticket, code), holder.reauthenticate(code=code)):
                    assert await outcome(call) == "DEPENDENCY_UNAVAILABLE"
            assert await outcome(holder.reauthenticate("wrong")) == "DEPENDENCY_UNAVAILABLE"  # no oracle either
            enrolling = newcomer.stub(FactorServiceStub).EnrollTotp(factor_pb.EnrollTotpRequest())
            assert await outcome(enrolling) == "DEPENDENCY_UNAVAILABLE"
            assert await holder.failures() == 0
            assert await failures(people, somebody.email) == 0
            await more(told["right"], "", 10)
            await more(told["wrong"], "LOGIN_FAILED", 10)
            await holder.complete(await holder.ticket(), holder.codes[0])
            begun = await people.auth.BeginPasskeyLogin(pb.BeginPasskeyLoginRequest())
            used = pb.FinishPasskeyLoginRequest(credential_json=passkey.use(begun.options_json))
            assert (await people.auth.FinishPasskeyLogin(used)).user.id == somebody.id
        finally:
            server.start()
            await asyncio.to_thread(server.unlock)
        await holder.complete(ticket, holder.app.code())
        await newcomer.stub(FactorServiceStub).EnrollTotp(factor_pb.EnrollTotpRequest())
    assert set(told["right"]) == {""}
    assert set(told["wrong"]) == {"LOGIN_FAILED"}


async def failures(people: People, address: str) -> int:
    digest = addresses.parse(address).digest
    async with people.database() as database:
        found = await database.fetchval("SELECT failures FROM login_attempts WHERE address_hash = $1", digest)
    return found or 0
