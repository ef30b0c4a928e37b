"""What happens around every RPC, seen through ProjectService over the wire."""

import asyncio
import io
import json
import uuid
from dataclasses import replace
from typing import Any

import grpc
import pytest

from services.kit import calls, faults, log, telemetry
from services.kit.server import Runtime
from tests.patience import SECONDS, within
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import project_service_pb2 as pb
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub

CREATE = "/triptych.projects.v1.ProjectService/CreateProject"
GET = "/triptych.projects.v1.ProjectService/GetProject"


async def raw(runtime: Runtime, path: str, data: bytes, metadata: Any = ()) -> Any:
    """Send bytes as they are and give the error that comes back."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{runtime.plaintext_port}") as channel:
        call: Any = channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(data, metadata=metadata, timeout=SECONDS)
    return caught.value


def bearer(person: Person) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {person.token}"),)


async def test_bytes_that_are_no_message_are_a_clients_mistake(runtime: Runtime, admin: Person) -> None:
    for data in (b"\xff" * 9, b"\x0a\xff", b"\x0a\x02\xc3\x28", b"\x0b" * 200):
        error = await raw(runtime, CREATE, data, bearer(admin))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "Error" not in (error.details() or "")


async def test_a_message_that_is_too_large_is_refused_and_the_connection_lives(runtime: Runtime, admin: Person) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{runtime.plaintext_port}") as channel:
        stub = ProjectServiceStub(channel)
        request = pb.CreateProjectRequest(project=Project(name="x", description="y" * 5_000_000))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateProject(request, metadata=bearer(admin))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stub.ListProjects(pb.ListProjectsRequest(), metadata=bearer(admin))


async def test_every_violation_is_named_at_once(admin: Person) -> None:
    request = pb.CreateProjectRequest(project=Project(description="y" * 4001), request_id="no")
    with pytest.raises(faults.InvalidArgument) as caught:
        await admin.stub(ProjectServiceStub).CreateProject(request)
    assert set(caught.value.violations) == {"project.name", "project.description", "request_id"}


async def test_a_token_given_twice_or_in_another_scheme_is_none(runtime: Runtime, admin: Person) -> None:
    request = pb.GetProjectRequest(project_id=str(uuid.uuid4())).SerializeToString()
    token = admin.token
    for metadata in (
        (),
        (("authorization", f"Basic {token}"),),
        (("authorization", token),),
        (("authorization", f"bearer  {token}"),),
        (("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")),
    ):
        error = await raw(runtime, GET, request, metadata)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_tenant_in_metadata_cannot_differ_from_the_tokens(runtime: Runtime, admin: Person) -> None:
    request = pb.GetProjectRequest(project_id=str(uuid.uuid4())).SerializeToString()
    metadata = (*bearer(admin), ("triptych-tenant", str(uuid.uuid4())))
    assert (await raw(runtime, GET, request, metadata)).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_tenant_in_metadata_alone_is_nobody(runtime: Runtime) -> None:
    request = pb.GetProjectRequest(project_id=str(uuid.uuid4())).SerializeToString()
    metadata = (("triptych-tenant", str(uuid.uuid4())),)
    assert (await raw(runtime, GET, request, metadata)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_permission_is_looked_at_before_shape_and_existence(runtime: Runtime, admin: Person) -> None:
    viewer = admin.colleague(Role.ROLE_VIEWER)
    error = await raw(runtime, CREATE, b"\xff" * 9, bearer(viewer))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_too_little_time_is_said_before_anything_begins(admin: Person) -> None:
    with pytest.raises(faults.DeadlineExceeded):
        await admin.stub(ProjectServiceStub).ListProjects(pb.ListProjectsRequest(), timeout=0.001)


async def test_a_method_ends_at_its_own_deadline(suite: Suite, admin: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.projects import projects

    async def endless(*_: object) -> None:
        await asyncio.Event().wait()

    hasty = await suite.launch("projects")
    hasty.calls._methods[GET] = replace(hasty.calls._methods[GET], deadline=0.2)
    monkeypatch.setattr(projects, "get", endless)
    request = pb.GetProjectRequest(project_id=str(uuid.uuid4())).SerializeToString()
    error = await raw(hasty, GET, request, bearer(admin))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert faults.from_error(error, service="projects").reason == "DEADLINE_TOO_SHORT"
    assert hasty.calls._running == {}


async def test_a_call_that_its_caller_cancels_is_cancelled_in_log_and_metric_and_no_deadline(
    suite: Suite, admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.projects import projects

    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    left = await suite.launch("projects")
    lines: list[dict[str, Any]] = []
    codes: list[str] = []
    spans: list[str] = []
    line = left.calls._line

    def note(call: Any, fault: faults.Fault | None, seconds: float, moment: float) -> Any:
        made = line(call, fault, seconds, moment)
        lines.append(made[2])
        return made

    def end(call: Any, fault: faults.Fault | None) -> None:
        if call.method.path == GET:  # other servers of this process have calls of their own
            spans.append("OK" if fault is None else fault.code.name)
            ended.set()

    monkeypatch.setattr(left.calls, "_line", note)
    monkeypatch.setattr(left.metrics, "observe", lambda _path, code, _seconds: codes.append(code))
    monkeypatch.setattr(telemetry, "start", lambda call: call)
    monkeypatch.setattr(telemetry, "end", end)
    monkeypatch.setattr(projects, "get", endless)
    request = pb.GetProjectRequest(project_id=str(uuid.uuid4()))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{left.plaintext_port}") as channel:
        call = ProjectServiceStub(channel).GetProject(request, metadata=bearer(admin), timeout=SECONDS)
        await within(begun.wait())
        call.cancel()
        await within(ended.wait())
    log.flush()
    assert [(made["code"], made["reason"]) for made in lines] == [("CANCELLED", "CALLER_LEFT")]
    assert (codes, spans) == (["CANCELLED"], ["CANCELLED"])


@pytest.mark.parametrize(
    ("rest", "code"), [(20.0, "CANCELLED"), (0.01, "DEADLINE_EXCEEDED"), (-1.0, "DEADLINE_EXCEEDED")]
)
def test_a_caller_whose_time_is_over_has_not_left(rest: float, code: str) -> None:
    call = calls.Call(method=None, request_id="r", token="", traceparent="", expires=100.0, caller=calls.NOBODY)  # type: ignore[arg-type]
    assert calls._parting(call, 100.0 - rest).code.name == code


async def test_the_request_id_comes_back_with_a_failure(runtime: Runtime, admin: Person) -> None:
    request = pb.GetProjectRequest(project_id=str(uuid.uuid4())).SerializeToString()
    error = await raw(runtime, GET, request, (*bearer(admin), ("x-request-id", "find-me")))
    assert ("x-request-id", "find-me") in [tuple(pair) for pair in error.trailing_metadata()]


async def test_a_defect_says_nothing_but_where_to_look(
    runtime: Runtime, admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.projects import projects

    async def broken(*_: object) -> None:
        raise ValueError("dsn=postgres://user:canary@db")

    monkeypatch.setattr(projects, "get", broken)
    request = pb.GetProjectRequest(project_id=str(uuid.uuid4())).SerializeToString()
    error = await raw(runtime, GET, request, bearer(admin))
    assert error.code() is grpc.StatusCode.INTERNAL
    everything = f"{error.details()} {list(error.trailing_metadata())}"
    assert "canary" not in everything
    assert "ValueError" not in everything


async def test_a_change_that_records_nothing_is_a_defect(
    runtime: Runtime, admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.kit import outbox

    async def forgetful(*_: object, **__: object) -> None:
        return

    monkeypatch.setattr(outbox, "record", forgetful)
    request = pb.CreateProjectRequest(project=Project(name="unrecorded")).SerializeToString()
    assert (await raw(runtime, CREATE, request, bearer(admin))).code() is grpc.StatusCode.INTERNAL


async def test_one_line_a_call_without_what_is_secret(admin: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written))
    monkeypatch.setattr(log, "_least", 0)
    log.flush()
    written.seek(0)
    written.truncate()
    await admin.stub(ProjectServiceStub).ListProjects(pb.ListProjectsRequest())
    log.flush()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["event"], line["code"]) for line in lines] == [("rpc", "OK")]
    assert admin.token.encode() not in written.getvalue()
    assert (lines[0]["caller"], lines[0]["tenant"]) == (f"user:{admin.id}", admin.tenant_id)


async def test_overload_is_refused_with_a_time_to_retry(suite: Suite, admin: Person) -> None:
    small = await suite.launch("projects", max_in_flight=2)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{small.plaintext_port}") as channel:
        stub = ProjectServiceStub(channel)
        many = [
            stub.ListProjects(pb.ListProjectsRequest(), metadata=bearer(admin), timeout=SECONDS) for _ in range(200)
        ]
        results = await asyncio.gather(*many, return_exceptions=True)
    refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert len(refused) < len(results)
    for error in refused:
        fault = faults.from_error(error, service="projects")
        assert (fault.reason, fault.retry_after is not None) == ("SERVER_BUSY", True)
