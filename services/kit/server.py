"""A service process: what all of them are made of, started in order, drained on SIGTERM.

A context's `__main__` gives `serve` its settings class and a function that adds its servicers to the Runtime.
"""

import asyncio
import ctypes
import gc
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeAlias, cast

import grpc
import structlog
import uvloop
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services.kit import access, faults, log, telemetry
from services.kit.calls import Calls
from services.kit.clients import Neighbours
from services.kit.db import Constraints, Database
from services.kit.health import Health
from services.kit.identity import Identity
from services.kit.paging import Pages
from services.kit.relays import Relay, Wakening
from services.kit.revocations import Follower, Source
from services.kit.settings import Settings, StartRefused
from services.kit.tokens import SigningKey, Verifier
from services.kit.vault import Vault
from triptych.auth.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    revocation_service_pb2,
    revocation_service_pb2_grpc,
)

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not take half of the calls
    ("grpc.server.max_pending_requests", 20_000),  # the defaults drop calls at random in a burst
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.max_connection_age_grace_ms", 600_000),
]
REFUSED = 78
"""Exit status of a start that was refused (EX_CONFIG of sysexits.h)."""
END_SECONDS = 3.0
"""What background work may take to end once it is cancelled."""
LONGEST_STREAM = 600.0
"""Seconds; auth ends the stream of revocations by itself before that."""
REFLECTION = "grpc.reflection.v1.ServerReflection"
KeySource: TypeAlias = Callable[[], Awaitable[Iterable[SigningKey]]]
_log = structlog.get_logger()


class Runtime:
    """What a service has at hand: settings, database, secrets, neighbours. Servicers are added, then it listens."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = telemetry.Metrics()
        self.vault = Vault(settings)
        self.identity = Identity(service=settings.service, trust_domain=settings.trust_domain, vault=self.vault)
        self.neighbours = Neighbours(targets=dict(settings.neighbours), identity=self.identity)
        self.verifier = Verifier(issuer=settings.issuer, audience=settings.audience, fetch=self._signing_keys)
        self._trusted: list[KeySource] = []
        self._revoked: Source = self._ask_revocations
        self.wakening = Wakening()
        self.db: Database
        self.pages: Pages
        self.port = 0
        """The mutual-TLS port that it listens on."""
        self.plaintext_port = 0
        self._adders: list[tuple[str, Callable[[grpc.aio.Server], None]]] = []
        self._work: list[Coroutine[Any, Any, None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._drains: list[Callable[[], None]] = []
        self._closers: list[Callable[[], Awaitable[None]]] = []

    async def open(self, constraints: Constraints | None = None) -> None:
        """Get a certificate, the paging key and database connections; a failure here stops the start."""
        await self.identity.obtain()
        key = f"{self.settings.service}-paging"
        self.pages = Pages(await self.vault.derive(key, "page tokens"))
        self.db = await Database.connect(
            self.settings,
            constraints=constraints,
            wake=self.wakening.wake,
            request_key=await self.vault.derive(key, "request bodies", version=1),  # digests outlive a rotation
        )
        self._closers.append(self.db.close)

    def add(self, service: str, add_to_server: Callable[[Any, grpc.aio.Server], None], servicer: object) -> None:
        """Serve a gRPC service (full name) with this servicer."""
        self._adders.append((service, lambda server: add_to_server(servicer, cast("grpc.aio.Server", _ByName(server)))))

    def trust(self, fetch: KeySource) -> None:
        """Accept access tokens that these keys sign. Without any such source the keys are those that auth publishes."""
        self._trusted.append(fetch)

    def refuse(self, source: Source) -> None:
        """Take revocations of access tokens from here, not from auth's stream."""
        self._revoked = source

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run this for as long as the process serves. It never returns and handles its own failures."""
        self._work.append(work)

    def on_drain(self, end: Callable[[], None]) -> None:
        """Call this when the process is about to stop, to end what would go on for long."""
        self._drains.append(end)

    def on_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Close this when the process stops."""
        self._closers.append(close)

    async def listen(self) -> None:
        """Begin to serve."""
        names = [name for name, _ in self._adders]
        self.calls = Calls(
            methods=access.methods(names),
            verifier=self.verifier,
            trust_domain=self.settings.trust_domain,
            max_in_flight=self.settings.max_in_flight,
            metrics=self.metrics,
        )
        self._server = grpc.aio.server(interceptors=[self.calls], options=OPTIONS)
        for _, add in self._adders:
            add(self._server)
        self.health = Health(names)
        _add_health(self.health, self._server)
        if self.settings.profile == "development":
            _add_reflection([*names, "grpc.health.v1.Health"], self._server)
        self.port = self._server.add_secure_port(self.settings.listen, self.identity.server_credentials())
        if self.settings.listen_plaintext:
            self.plaintext_port = self._server.add_insecure_port(self.settings.listen_plaintext)
        await self._follow_revocations()
        await self._server.start()
        await self._start_relay()
        if self.settings.metrics_listen:
            self.metrics.serve(self.settings.metrics_listen)
        work = [self.calls.keep(), self.identity.keep(), self.health.watch(self.db), *self._work]
        self._work.clear()
        self._tasks += [asyncio.create_task(item) for item in work]
        await self.health.say(1)

    async def stop(self) -> None:
        """Drain: say NOT_SERVING, let calls end, stop background work, close what was opened."""
        await self.health.leave()
        for end in self._drains:
            end()
        await self._server.stop(self.settings.drain_seconds)
        await self._end_work()
        await self.close()

    async def _end_work(self) -> None:
        """Cancel background work. What then waits for an answer, to roll back, ends with the connections."""
        for task in self._tasks:
            task.cancel()
        done, late = await asyncio.wait(self._tasks, timeout=END_SECONDS)
        for task in late:
            _log.warning("background work has not ended; its connections are closed", work=repr(task.get_coro()))
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("background work had failed", error=repr(error))

    async def close(self) -> None:
        """Close what was opened, newest first."""
        for work in self._work:  # it never began
            work.close()
        await self.neighbours.close()
        for close in reversed(self._closers):
            await close()
        self.vault.close()

    async def _follow_revocations(self) -> None:
        self.follower = Follower(self.verifier.revocations, self._revoked)
        self.metrics.watch_revocations(lambda: self.follower.age)
        self._tasks.append(asyncio.create_task(self.follower.run()))
        if self._revoked != self._ask_revocations or "auth" in self.neighbours.targets:
            await self.follower.wait()

    async def _ask_revocations(self) -> AsyncGenerator[revocation_service_pb2.WatchRevocationsResponse, None]:
        stub = self.neighbours.stub("auth", revocation_service_pb2_grpc.RevocationServiceStub)
        answers = stub.WatchRevocations(revocation_service_pb2.WatchRevocationsRequest(), timeout=LONGEST_STREAM)
        try:
            async for answer in answers:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise faults.from_error(error, service="auth") from None
        finally:
            answers.cancel()

    async def _start_relay(self) -> None:
        settings = self.settings
        if not settings.relay_user:
            return
        password = settings.secret(settings.relay_password_file)
        db = await Database.connect(settings, user=settings.relay_user, password=password, size=2)
        self._closers.append(db.close)
        self.relay = Relay(
            service=settings.service,
            db=db,
            neighbours=self.neighbours,
            metrics=self.metrics,
            wakening=self.wakening,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        self._closers.append(self.relay.release)  # before its connections, and after its loop was ended
        self._tasks.append(asyncio.create_task(self.relay.run()))

    async def _signing_keys(self) -> list[SigningKey]:
        return [key for fetch in self._trusted or [self.ask_auth] for key in await fetch()]

    async def ask_auth(self) -> list[SigningKey]:
        """Give the keys that auth publishes."""
        stub = self.neighbours.stub("auth", auth_service_pb2_grpc.AuthServiceStub)
        answer = await stub.GetSigningKeys(auth_service_pb2.GetSigningKeysRequest())
        return [
            SigningKey(key.key_id, key.public_key, key.not_before.seconds, key.not_after.seconds) for key in answer.keys
        ]


def serve(settings_type: type[Settings], wire: Callable[[Runtime], Awaitable[None]]) -> None:
    """Run a service until SIGTERM or SIGINT. `wire` opens the runtime and adds servicers.

    What refuses the start is said in one line, and the process ends with `REFUSED`.
    """
    try:
        settings = settings_type.load()
        log.configure(service=settings.service, level=settings.log_level)
        telemetry.configure(settings)
        uvloop.run(_serve(settings, wire))
    except StartRefused as refusal:
        _log.error("start refused", text=str(refusal))
        sys.exit(REFUSED)


async def _serve(settings: Settings, wire: Callable[[Runtime], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runtime = Runtime(settings)
    try:
        await wire(runtime)
        await runtime.listen()
    except BaseException:
        await runtime.close()
        raise
    _settle_memory()
    _log.info("serving", service=settings.service, port=runtime.port, plaintext_port=runtime.plaintext_port)
    await stop.wait()
    _log.info("draining", service=settings.service)
    await runtime.stop()


def _settle_memory() -> None:
    """Give back what starting up has used and freed, about a tenth of the process; spare the rest further scans."""
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def _add_health(health: Health, server: grpc.aio.Server) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)


def _add_reflection(names: list[str], server: grpc.aio.Server) -> None:
    """Serve reflection as v1alpha, which grpcio has, and as v1: the same on the wire, and what tools ask first."""
    served = [*names, reflection.SERVICE_NAME]  # what is listed must have a descriptor, and v1's own is in no pool
    handler = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(served, _Symbols()).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (REFLECTION, reflection.SERVICE_NAME):
        methods = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((methods,))


class _ByName:
    """A server that finds methods by name only.

    For each method that is registered as well, grpc.aio keeps a task, and at each call it waits for all of them anew:
    the more methods, the dearer every call.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Add handlers, as generated code does."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Leave it: generated code adds the same handlers in both ways."""


class _Symbols:
    """The pool of descriptors; it also finds methods, which the pool by itself knows under their service only."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def FindFileContainingSymbol(self, name: str) -> FileDescriptor:
        """Give the file that defines a symbol."""
        try:
            return self._pool.FindFileContainingSymbol(name)
        except KeyError:
            return self._pool.FindFileContainingSymbol(name.rpartition(".")[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)
