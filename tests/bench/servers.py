"""Server processes to measure: `python -m tests.bench.servers KIND < settings.json`, which prints its port.

echo         a bare grpc.aio server that answers GetProject with what it is given, no interceptor
intercepted  the same handler behind the kit's interceptor, with a verified token and validation
asyncpg      a bare grpc.aio server that reads a project: asyncpg, a transaction, the tenant setting, one SELECT
projects     the projects service
"""

import asyncio
import json
import sys
from typing import Any

import asyncpg
import grpc
import structlog
import uvloop

from services.kit import access, log, telemetry
from services.kit.calls import Calls
from services.kit.server import OPTIONS, Runtime
from services.kit.settings import Settings
from services.kit.tokens import SigningKey, Verifier
from services.projects import __main__ as projects_main, projects
from triptych.projects.v1 import project_pb2, project_service_pb2 as pb

SERVICE = "triptych.projects.v1.ProjectService"


async def echo(request: pb.GetProjectRequest, context: object) -> pb.GetProjectResponse:
    """Answer without looking anything up."""
    return pb.GetProjectResponse(project=project_pb2.Project(id=request.project_id, name="echo"))


class Bare:
    """Reads a project as somebody would who writes it by hand: same SQL, same wire form, same transaction."""

    def __init__(self, pool: Any, tenant_id: str) -> None:
        self._pool = pool
        self._tenant_id = tenant_id

    async def get(self, request: pb.GetProjectRequest, context: object) -> pb.GetProjectResponse:
        """Answer GetProject."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "SELECT set_config('app.tenant', $1, true), set_config('statement_timeout', $2, true)",
                self._tenant_id,
                "2000",
            )
            row = await connection.fetchrow(projects._get.text, *projects._get.arguments({"id": request.project_id}))
        return pb.GetProjectResponse(project=projects._wire(row))


async def _json(connection: Any) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


async def _trusted(key: str) -> list[SigningKey]:
    return [SigningKey("test", bytes.fromhex(key), 0, 2**40)]


async def serve(kind: str, given: dict[str, Any]) -> None:
    """Start the server of this kind, print its port and run until the input ends."""
    keeping: asyncio.Task[None] | None = None
    if kind == "projects":
        runtime = Runtime(Settings.of(given["settings"]))
        runtime.trust(lambda: _trusted(given["key"]))
        await projects_main.wire(runtime)
        await runtime.listen()
        port = runtime.plaintext_port
    else:
        interceptors: list[Any] = []
        get: Any = echo
        if kind == "intercepted":
            verifier = Verifier(issuer=given["issuer"], audience="triptych", fetch=lambda: _trusted(given["key"]))
            metrics = telemetry.Metrics()
            calls = Calls(
                methods=access.methods([SERVICE]),
                verifier=verifier,
                trust_domain="triptych",
                max_in_flight=256,
                metrics=metrics,
            )
            keeping = asyncio.create_task(calls.keep())
            interceptors = [calls]
        if kind == "asyncpg":
            pool = await asyncpg.create_pool(**given["pool"], min_size=8, max_size=8, init=_json)
            get = Bare(pool, given["tenant_id"]).get
        server = grpc.aio.server(interceptors=interceptors, options=OPTIONS)
        handler = grpc.unary_unary_rpc_method_handler(
            get, pb.GetProjectRequest.FromString, pb.GetProjectResponse.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"GetProject": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
    sys.stderr.write(f"port {port}\n")
    sys.stderr.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    if keeping is not None:
        keeping.cancel()


if __name__ == "__main__":
    settings = json.loads(sys.stdin.readline())
    log.configure(service="bench", level="info")
    structlog.get_logger().info("started", kind=sys.argv[1])
    uvloop.run(serve(sys.argv[1], settings))
