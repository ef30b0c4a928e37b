"""The server as a process sees it from outside: ports, certificates, health, reflection, drain."""

import asyncio
import base64
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.kit import clock, faults
from services.kit.server import Runtime
from tests.patience import SECONDS, eventually, until, within
from tests.suite import Person, Suite
from triptych.projects.v1 import project_service_pb2 as pb
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub
from triptych.projects.v1.version_service_pb2 import CreateVersionRequest
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub

BUF = Path(sys.executable).with_name("buf")


async def curl(runtime: Runtime, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call with buf curl, which asks the server for its contract by reflection."""
    command = [str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments]
    command[-1] = f"http://127.0.0.1:{runtime.plaintext_port}{arguments[-1]}"
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, timeout=SECONDS
    )


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
async def test_reflection_lists_and_calls(runtime: Runtime, admin: Person, version: str) -> None:
    listed = await curl(runtime, "--reflect-protocol", version, "--list-methods", "")
    assert "triptych.projects.v1.ProjectService/CreateProject" in listed.stdout
    called = await curl(
        runtime, "--reflect-protocol", version, "-H", f"authorization: Bearer {admin.token}",
        "-d", f'{{"project": {{"name": "curl {version}"}}}}', "/triptych.projects.v1.ProjectService/CreateProject",
    )  # fmt: skip
    assert f'"curl {version}"' in called.stdout


async def test_everything_that_is_listed_can_be_described(runtime: Runtime) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{runtime.plaintext_port}") as channel:
        kind: Any = reflection_pb2_grpc.ServerReflectionStub
        stub = kind(channel)

        async def ask(**request: str) -> Any:
            make: Any = reflection_pb2.ServerReflectionRequest
            stream = stub.ServerReflectionInfo(iter([make(**request)]))
            return await stream.read()

        listed = (await ask(list_services="")).list_services_response.service
        names = [service.name for service in listed]
        assert "triptych.projects.v1.ProjectService" in names
        for name in [*names, "triptych.projects.v1.ProjectService.CreateProject", "google.rpc.ErrorInfo"]:
            assert (await ask(file_containing_symbol=name)).HasField("file_descriptor_response"), name
        assert (await ask(file_containing_symbol="triptych.nothing.Here")).HasField("error_response")


async def test_a_mistake_by_hand_is_answered_with_its_reason(runtime: Runtime, admin: Person) -> None:
    said = await curl(
        runtime, "-H", f"authorization: Bearer {admin.token}", "-d", '{"project_id": "7"}',
        "/triptych.projects.v1.ProjectService/GetProject",
    )  # fmt: skip
    assert "must be a valid UUID" in said.stderr
    details = [base64.b64decode(detail["value"] + "==") for detail in json.loads(said.stderr)["details"]]
    assert any(b"REQUEST_INVALID" in detail for detail in details)


@pytest.fixture
async def production(suite: Suite, runtime: Runtime) -> Runtime:
    """A server of the production profile."""
    return await suite.launch("projects", profile="production", listen_plaintext="")


async def test_production_has_neither_reflection_nor_plaintext(suite: Suite, production: Runtime) -> None:
    assert production.plaintext_port == 0
    peer = await suite.service("experiments", str(uuid.uuid4()))
    options = [("grpc.ssl_target_name_override", "projects")]
    async with grpc.aio.secure_channel(
        f"127.0.0.1:{production.port}", peer.identity.channel_credentials(), options=options
    ) as channel:
        for name in ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"):
            method: Any = channel.stream_stream(f"/{name}/ServerReflectionInfo")
            call = method([b""], timeout=SECONDS)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_second_server_on_the_port_fails(suite: Suite, runtime: Runtime) -> None:
    with pytest.raises(RuntimeError, match=str(runtime.port)):
        await suite.launch("projects", listen=f"127.0.0.1:{runtime.port}")


def self_signed(name: str) -> tuple[bytes, bytes]:
    """Give key and certificate of an authority that nobody trusts, for this SPIFFE name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stranger")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(clock.now())
        .not_valid_after(clock.now().replace(year=clock.now().year + 1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


async def test_only_our_certificates_are_let_in(suite: Suite, runtime: Runtime) -> None:
    authority = runtime.identity.certificate.authority
    private, chain = self_signed("spiffe://triptych/experiments")
    strangers = [
        grpc.ssl_channel_credentials(authority),
        grpc.ssl_channel_credentials(authority, private, chain),
        None,
    ]
    for credentials in strangers:
        target = f"127.0.0.1:{runtime.port}"
        options = [("grpc.ssl_target_name_override", "projects")]
        made = (
            grpc.aio.insecure_channel(target)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=options)
        )
        async with made as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ProjectServiceStub(channel).ListProjects(pb.ListProjectsRequest(), timeout=SECONDS)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_another_services_certificate_does_not_open_a_method(suite: Suite, admin: Person) -> None:
    request = CreateVersionRequest(project_id=str(uuid.uuid4()))
    request.configuration["n"] = 1
    allowed = (await suite.service("experiments", admin)).stub(VersionServiceStub)
    with pytest.raises(faults.NotFound):
        await allowed.CreateVersion(request)
    for name in ("production", "audit", "auth"):
        other = (await suite.service(name, admin)).stub(VersionServiceStub)
        with pytest.raises(faults.PermissionDenied):
            await other.CreateVersion(request)


async def test_a_renewed_certificate_is_served_and_used(suite: Suite, admin: Person, runtime: Runtime) -> None:
    peer = await suite.service("experiments", admin)
    before = runtime.identity.certificate
    await runtime.identity.obtain()
    assert runtime.identity.certificate.chain != before.chain
    await peer.stub(ProjectServiceStub).GetProject(
        pb.GetProjectRequest(
            project_id=(
                await admin.stub(ProjectServiceStub).CreateProject(
                    pb.CreateProjectRequest(project=Project(name="renewed"))
                )
            ).project.id
        )
    )


async def test_health_is_watched_and_says_when_the_server_leaves(suite: Suite, runtime: Runtime) -> None:
    leaving = await suite.launch("projects")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{leaving.plaintext_port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "triptych.projects.v1.ProjectService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
        seen = [(await watch.read()).status]
        stopping = asyncio.create_task(leaving.stop())
        seen.append((await within(watch.read())).status)
        watch.cancel()
        await stopping
    assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


async def test_what_was_acknowledged_before_a_stop_is_stored(suite: Suite, admin: Person) -> None:
    """Calls race a stop: each that was answered OK is there afterwards."""
    leaving = await suite.launch("projects")
    stored: list[str] = []

    async def caller(stub: Any, number: int) -> None:
        for turn in range(1000):
            request = pb.CreateProjectRequest(project=Project(name=f"stop {number} {turn}"))
            try:
                answer = await stub.CreateProject(request, metadata=(("authorization", f"Bearer {admin.token}"),))
            except grpc.aio.AioRpcError:
                return
            stored.append(answer.project.id)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{leaving.plaintext_port}") as channel:
        callers = [asyncio.create_task(caller(ProjectServiceStub(channel), number)) for number in range(8)]
        await until(lambda: len(stored) >= 40)
        await leaving.stop()
        await asyncio.gather(*callers)
    listed: list[str] = []
    token = ""
    while True:
        request = pb.ListProjectsRequest(page_size=200, page_token=token)
        page = await admin.stub(ProjectServiceStub).ListProjects(request)
        listed += [project.id for project in page.projects]
        token = page.next_page_token
        if not token:
            break
    assert set(stored) <= set(listed)


async def test_without_postgres_calls_are_refused_quickly_and_come_back(
    admin: Person, superuser: asyncpg.Connection
) -> None:
    """The service's connections are cut: callers see UNAVAILABLE or nothing at all, and the pool recovers by itself."""
    stub = admin.stub(ProjectServiceStub)
    for _ in range(5):
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'triptych_projects_app' AND datname = current_database()"
        )
        results = await asyncio.gather(
            *(stub.ListProjects(pb.ListProjectsRequest()) for _ in range(4)), return_exceptions=True
        )
        failed = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(error, faults.Unavailable) for error in failed), failed

    async def back() -> bool:
        try:
            await stub.ListProjects(pb.ListProjectsRequest())
        except faults.Unavailable:
            return False
        return True

    await eventually(back)


async def test_a_cancelled_call_leaves_no_transaction_open(
    runtime: Runtime, admin: Person, superuser: asyncpg.Connection
) -> None:
    stub = admin.stub(ProjectServiceStub)
    for number in range(60):
        request = pb.CreateProjectRequest(project=Project(name=f"cancelled {number}"))
        call = asyncio.ensure_future(stub.CreateProject(request))
        await asyncio.sleep(number * 0.0003)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    none_open = (
        "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'triptych_projects_app'"
        " AND datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    await eventually(lambda: superuser.fetchval(none_open))
    await stub.ListProjects(pb.ListProjectsRequest())
