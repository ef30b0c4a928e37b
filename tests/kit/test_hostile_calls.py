"""Attacks on what surrounds a call: tokens that are dropped, paths that are none, metadata that no library sends."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest

from services.kit import log
from services.kit.server import Runtime
from tests.patience import SECONDS
from tests.suite import Person, Suite
from triptych.projects.v1 import project_service_pb2 as pb
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub

LIST = "/triptych.projects.v1.ProjectService/ListProjects"
CREATE = "/triptych.projects.v1.ProjectService/CreateProject"


async def code(runtime: Runtime, path: str, metadata: Any = ()) -> grpc.StatusCode:
    """Give the status of a call."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{runtime.plaintext_port}") as channel:
        unary: Any = channel.unary_unary(path)
        found: grpc.StatusCode = await unary(b"", metadata=metadata, timeout=SECONDS).code()
        return found


def defects(runtime: Runtime) -> float:
    """How many calls ended in INTERNAL."""
    log.flush()
    samples = [sample for metric in runtime.metrics.registry.collect() for sample in metric.samples]
    return sum(
        s.value for s in samples if s.name.endswith("_count") and s.labels.get("code") in ("INTERNAL", "UNKNOWN")
    )


@pytest.mark.parametrize("token", ["x" * 5_000, "a.b.c", "", " ", "eyJhbGciOiJub25lIn0.e30."])
async def test_cve_2026_9704_a_token_that_is_dropped_leaves_no_service_behind_it(
    suite: Suite, runtime: Runtime, admin: Person, token: str
) -> None:
    service = await suite.service("experiments", admin.tenant_id)
    method = "/triptych.projects.v1.VersionService/GetVersion"
    credentials = service.identity.channel_credentials()
    options = [("grpc.ssl_target_name_override", "projects")]
    target = f"127.0.0.1:{runtime.port}"
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        unary: Any = channel.unary_unary(method)
        bearer = (("authorization", f"Bearer {token}"), ("triptych-tenant", admin.tenant_id))
        found = await unary(b"", metadata=bearer, timeout=SECONDS).code()
    assert found is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "path", [LIST[1:], f"/{LIST}", f"{LIST}/", LIST.lower(), "", "/", "/triptych.projects.v1.ProjectService/", "*"]
)
async def test_cve_2026_33186_a_path_that_is_not_exactly_a_methods(runtime: Runtime, admin: Person, path: str) -> None:
    before = defects(runtime)
    bearer = (("authorization", f"Bearer {admin.token}"),)
    for metadata in ((), bearer):
        assert await code(runtime, path, metadata) is not grpc.StatusCode.OK
    assert defects(runtime) == before
    assert await code(runtime, LIST, bearer) is grpc.StatusCode.OK


@pytest.mark.parametrize("key", ["x-tenant-id", "x-triptych-tenant", "tenant", "x-forwarded-for", "x-role"])
async def test_a_header_that_nobody_reads_changes_nothing(runtime: Runtime, admin: Person, key: str) -> None:
    other = str(uuid.uuid4())
    metadata = (("authorization", f"Bearer {admin.token}"), (key, other))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{runtime.plaintext_port}") as channel:
        answer = await ProjectServiceStub(channel).ListProjects(
            pb.ListProjectsRequest(), metadata=metadata, timeout=SECONDS
        )
    assert answer.projects == []


async def test_metadata_that_is_too_large_is_refused(runtime: Runtime, admin: Person) -> None:
    metadata = (("authorization", f"Bearer {admin.token}"), ("x-large", "y" * 20_000))
    assert await code(runtime, LIST, metadata) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await code(runtime, LIST, metadata[:1]) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"x-note", b"a\r\nauthorization: Bearer x"),
        (b"x-note", b"a\x00b"),
        (b"X-Upper", b"a"),
        (b"Authorization", b"Bearer x"),
        (b"x-note\r\n", b"a"),
        (b"x no te", b"a"),
        (b"", b"a"),
        (b"grpc-timeout", b"99999999999H"),
        (b"grpc-timeout", b"-1S"),
        (b"grpc-encoding", b"no-such"),
        (b"grpc-status", b"0"),
        (b"x-request-id", b"a\r\nb"),
        (b"traceparent", b"\xff\xfe"),
        (b"x-note-bin", b"!!!"),
        (b":path", b"/other"),
        (b"connection", b"close"),
    ],
)
async def test_metadata_that_only_a_raw_client_sends_makes_no_defect(
    runtime: Runtime, admin: Person, key: bytes, value: bytes
) -> None:
    before = defects(runtime)
    answered = await raw_call(
        runtime.plaintext_port, [(b"authorization", f"Bearer {admin.token}".encode()), (key, value)]
    )
    assert answered
    assert defects(runtime) == before
    assert await code(runtime, LIST, (("authorization", f"Bearer {admin.token}"),)) is grpc.StatusCode.OK


async def raw_call(port: int, headers: list[tuple[bytes, bytes]]) -> bool:
    """Speak HTTP/2 by hand, so that nothing is checked on our side; say whether the server answered or hung up."""
    usual = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", LIST.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    block = b"".join(b"\x00" + _literal(name) + _literal(text) for name, text in usual + headers)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
    writer.write(_frame(1, 4, 1, block) + _frame(0, 1, 1, b"\x00\x00\x00\x00\x00"))
    await writer.drain()
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                head = await reader.readexactly(9)
                body = await reader.readexactly(int.from_bytes(head[:3]))
                kind, flags = head[3], head[4]
                if kind in (3, 7) or (kind == 1 and flags & 1):  # RST_STREAM, GOAWAY, the last headers
                    return True
                if kind == 6 and not flags & 1:
                    writer.write(_frame(6, 1, 0, body))
    except (asyncio.IncompleteReadError, ConnectionError):
        return True
    finally:
        writer.close()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + body


def _literal(text: bytes) -> bytes:
    """A string of HPACK, not compressed (RFC 7541, 5.2)."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, size = len(text) - 127, b"\x7f"
    while rest >= 128:
        size += bytes([rest % 128 + 128])
        rest //= 128
    return size + bytes([rest]) + text
