"""What a process knows of revoked tokens: asked at every use, told by a stream that may end or fall silent."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from services.kit import faults, revocations
from services.kit.access import Caller
from services.kit.revocations import Follower, Revocations
from services.kit.server import Runtime
from services.kit.tokens import Verifier
from tests.patience import SECONDS, until, within
from tests.suite import Issuer, Person, Suite
from triptych.audit.v1 import audit_service_pb2 as audit_pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.auth.v1.revocation_pb2 import Revocation
from triptych.auth.v1.revocation_service_pb2 import WatchRevocationsResponse
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import project_service_pb2 as pb
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub


def revocation(*, seconds: int = 600, **target: Any) -> Revocation:
    found = Revocation(**target)
    found.forget_time.seconds = int(time.time()) + seconds
    return found


def someone(**fields: Any) -> Caller:
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "tenant_id": str(uuid.uuid4()),
        "session_id": str(uuid.uuid4()),
        "version": 3,
    }
    return Caller(**({"kind": "user"} | values | fields))


@pytest.mark.parametrize("kind", ["user", "agent"])
def test_a_session_a_tenant_and_older_versions_of_a_subject_are_refused(kind: str) -> None:
    caller, other = someone(kind=kind), someone(kind=kind)
    for target, hit in (
        ({"session_id": caller.session_id}, True),
        ({"tenant_id": caller.tenant_id}, True),
        ({"subject_id": caller.id, "least_version": 4}, True),
        ({"subject_id": caller.id, "least_version": 3}, False),
    ):
        known = Revocations()
        known.add([revocation(**target)])
        assert known.hit(caller) is hit
        assert not known.hit(other)


def test_told_twice_or_out_of_order_makes_no_difference() -> None:
    caller, known = someone(version=6), Revocations()
    newer, older = (revocation(subject_id=caller.id, least_version=version) for version in (7, 5))
    for told in ([newer], [older], [older, newer], [newer]):
        known.add(told)
        assert known.hit(caller)
    assert len(known) == 1


def test_what_concerns_no_token_any_more_is_forgotten_and_nothing_sooner() -> None:
    caller, known = someone(), Revocations()
    known.add([revocation(session_id=caller.session_id, seconds=-5)])
    known.add([revocation(session_id=str(uuid.uuid4()), seconds=-60) for _ in range(100)])
    known.add([revocation(tenant_id=str(uuid.uuid4()), seconds=-60)])
    known.add([revocation(subject_id=str(uuid.uuid4()), least_version=2, seconds=-60)])
    known.forget()
    assert len(known) == 1
    assert known.hit(caller)  # clocks differ


async def test_a_remembered_token_is_refused_at_its_next_use() -> None:
    issuer = Issuer()
    verifier = Verifier(issuer="https://triptych.local", audience="triptych", fetch=issuer.keys)
    token = issuer.token({"sub": str(uuid.uuid4()), "tid": str(uuid.uuid4()), "kind": "user", "role": 4})
    caller = await verifier.verify(token)
    assert verifier.known(token) == caller
    verifier.revocations.add([revocation(session_id=caller.session_id)])
    assert verifier.known(token) is None
    for _ in range(2):
        with pytest.raises(faults.TokenInvalid):
            await verifier.verify(token)


class Told:
    """A source that tests drive."""

    def __init__(self) -> None:
        self.streams = 0
        self.queue: asyncio.Queue[WatchRevocationsResponse | Exception | None] = asyncio.Queue()

    async def __call__(self) -> AsyncGenerator[WatchRevocationsResponse, None]:
        self.streams += 1
        while (message := await self.queue.get()) is not None:
            if isinstance(message, Exception):
                raise message
            yield message


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[Follower]:
    """Let it follow for as long as the test looks at it."""
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()


@pytest.mark.parametrize("end", [None, faults.DependencyUnavailable("auth does not answer"), ValueError("a defect")])
async def test_a_stream_that_ends_is_opened_again_and_nothing_is_forgotten(
    end: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "RETRY_SECONDS", 0.01)
    known, told, caller = Revocations(), Told(), someone()
    async with following(Follower(known, told)) as follower:
        told.queue.put_nowait(
            WatchRevocationsResponse(revocations=[revocation(session_id=caller.session_id)], caught_up=True)
        )
        await follower.wait()
        await until(lambda: known.hit(caller))
        told.queue.put_nowait(end)
        later = someone()
        told.queue.put_nowait(WatchRevocationsResponse(revocations=[revocation(tenant_id=later.tenant_id)]))
        await until(lambda: known.hit(later))
        assert told.streams == 2
        assert known.hit(caller)


async def test_silence_is_an_end_and_a_heartbeat_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(revocations, "SILENCE_SECONDS", 0.05)
    told = Told()
    async with following(Follower(Revocations(), told)) as follower:
        await until(lambda: told.streams >= 3)
        assert follower.age > 0.05
        told.queue.put_nowait(WatchRevocationsResponse(caught_up=True))
        await follower.wait()


async def test_a_start_waits_a_moment_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "FIRST_SECONDS", 0.01)
    await Follower(Revocations(), Told()).wait()


@pytest.fixture
async def runtime(suite: Suite) -> Runtime:
    await suite.start("projects", "audit")
    return suite.runtimes["projects"]


async def sid(runtime: Runtime, token: str) -> str:
    return (await runtime.verifier.verify(token)).session_id


async def test_a_call_under_way_ends_when_its_token_is_revoked(
    suite: Suite, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.projects import projects

    begun = asyncio.Event()

    async def endless(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(projects, "get", endless)
    token = suite.person(Role.ROLE_ADMIN).token
    stub = ProjectServiceStub(suite.channel(ProjectServiceStub, (("authorization", f"Bearer {token}"),)))
    call = asyncio.ensure_future(stub.GetProject(pb.GetProjectRequest(project_id=str(uuid.uuid4())), timeout=SECONDS))
    await within(begun.wait())
    runtime.verifier.revocations.add([revocation(session_id=await sid(runtime, token))])
    with pytest.raises(faults.Unauthenticated) as caught:
        await call
    assert caught.value.reason == "TOKEN_INVALID"
    assert not runtime.calls._running


async def test_a_stream_under_way_ends_when_its_token_is_revoked(
    suite: Suite, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.audit import verifications

    closed = asyncio.Event()

    async def endless(*_: object, **__: object) -> AsyncGenerator[audit_pb.VerifyLogResponse, None]:
        try:
            while True:
                yield audit_pb.VerifyLogResponse()
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    monkeypatch.setattr(verifications, "run", endless)
    audit = suite.runtimes["audit"]
    token = suite.person(Role.ROLE_ADMIN).token
    async with grpc.aio.insecure_channel(f"127.0.0.1:{audit.plaintext_port}") as channel:
        stream = AuditServiceStub(channel).VerifyLog(
            audit_pb.VerifyLogRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=SECONDS
        )
        await stream.read()
        audit.verifier.revocations.add([revocation(session_id=await sid(audit, token))])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _drain(stream)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await within(closed.wait())


async def _drain(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_calls_of_others_go_on(suite: Suite, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.projects import projects

    begun, go_on = asyncio.Event(), asyncio.Event()
    plain = projects.get

    async def slow(*given: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await plain(*given)

    monkeypatch.setattr(projects, "get", slow)
    person: Person = suite.person(Role.ROLE_ADMIN)
    request = pb.GetProjectRequest(project_id=str(uuid.uuid4()))
    call = asyncio.ensure_future(person.stub(ProjectServiceStub).GetProject(request))
    await within(begun.wait())
    runtime.verifier.revocations.add([revocation(session_id=str(uuid.uuid4()))])
    await asyncio.sleep(0.4)
    go_on.set()
    with pytest.raises(faults.NotFound):
        await call


async def test_a_service_shows_how_old_its_knowledge_is(runtime: Runtime) -> None:
    age = runtime.metrics.registry.get_sample_value("triptych_revocations_age_seconds")
    assert age is not None
    assert age >= 0
