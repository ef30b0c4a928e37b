"""The services under test: real servers in this process, on PostgreSQL, Valkey and OpenBao of the session.

await suite.start("projects", "audit")            # with the neighbours that the test needs
admin = suite.person(Role.ROLE_ADMIN)             # somebody in a new tenant
other = admin.colleague(Role.ROLE_ADMIN)          # somebody else in the same tenant
projects = admin.stub(ProjectServiceStub)         # raises the kit's faults
service = suite.service("experiments", admin)     # a service, by certificate, on behalf of that person
"""

import importlib
import json
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.cli.stack.backends import Backends
from services.cli.stack.topology import Topology
from services.kit.clients import adding, interceptors, of_tenant
from services.kit.identity import Identity
from services.kit.server import Runtime
from services.kit.settings import Settings
from services.kit.tokens import SigningKey
from services.kit.vault import Vault
from tests.patience import SECONDS
from triptych.common.v1.role_pb2 import Role

Stub = TypeVar("Stub")
AUTH = {
    "source_logins": 1_000_000,  # all tests call from one address
    "source_bad_secrets": 1_000_000,
    "tarpit_seconds": 0,
    "webauthn_rp_id": "triptych.test",
    "webauthn_origins": "https://triptych.test,https://app.triptych.test",
}
"""Settings of the auth service in tests."""


class Issuer:
    """Signs access tokens as the auth service does, with a key of the test session."""

    def __init__(self, *, issuer: str = "https://triptych.local", audience: str = "triptych") -> None:
        self._key = Ed25519PrivateKey.generate()
        self._issuer = issuer
        self._audience = audience

    async def keys(self) -> Iterable[SigningKey]:
        """Give the public key, for verifiers."""
        public = self._key.public_key().public_bytes_raw()
        return [SigningKey("test", public, time.time() - 60, time.time() + 86400)]

    def token(self, claims: dict[str, Any], header: dict[str, Any] | None = None) -> str:
        """Sign claims; those that are not given are those of an ordinary token."""
        now = int(time.time())
        usual = {"iss": self._issuer, "aud": self._audience, "iat": now, "exp": now + 600, "ver": 1}
        usual |= {"sid": str(uuid.uuid4())}
        signed = ".".join(
            _segment(part)
            for part in (header or {"alg": "EdDSA", "typ": "at+jwt", "kid": "test"}, usual | {"scope": ""} | claims)
        )
        return f"{signed}.{_encode(self._key.sign(signed.encode()))}"


@dataclass(frozen=True)
class Person:
    """Somebody with a role in a tenant, and what they may call."""

    suite: "Suite"
    id: str
    tenant_id: str
    role: "Role.ValueType"

    def colleague(self, role: "Role.ValueType") -> "Person":
        """Give somebody else of the same tenant."""
        return replace(self, id=str(uuid.uuid4()), role=role)

    @property
    def token(self) -> str:
        """An access token."""
        claims = {"sub": self.id, "tid": self.tenant_id, "kind": "user", "role": self.role}
        return self.suite.issuer.token(claims)

    def stub(self, kind: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """Give a stub that calls as this person; failures are the kit's faults."""
        return kind(self.suite.channel(kind, (("authorization", f"Bearer {self.token}"),)))


class Server(Runtime):
    """A server of a test: whoever stops it first, it is stopped once."""

    stopped = False

    async def stop(self) -> None:
        """Stop it, unless it was."""
        if not self.stopped:
            self.stopped = True
            await super().stop()


class Suite:
    """The services of one test worker."""

    def __init__(self, backends: Backends, database: str, data: Path) -> None:
        self.backends = backends
        self.database = database
        self.issuer = Issuer()
        self.runtimes: dict[str, Runtime] = {}
        self._started: dict[str, Server] = {}
        self._launched: list[Server] = []
        self._data = data
        self._identities: dict[str, Identity] = {}
        self._channels: list[grpc.aio.Channel] = []

    @property
    def topology(self) -> Topology:
        """The services that there are."""
        return self.backends.topology

    def values(self, name: str, **changes: Any) -> dict[str, Any]:
        """Give the settings of a service for this worker, as they would stand in its file."""
        values = self.backends.service_settings(name, database=self.database)
        values |= {"listen": "127.0.0.1:0", "listen_plaintext": "127.0.0.1:0", "neighbours": {}, "log_level": "warning"}
        values |= {"data_dir": str(self._data / name), "drain_seconds": 1.0}
        if name == "audit":  # a witness remembers one database
            values["witness_dir"] = str(self._data / "witness")
        values |= changes
        values.pop("metrics_listen", None)
        return values

    def settings(self, name: str, **changes: Any) -> Settings:
        """Give them as the service reads them."""
        if name == "providers":
            changes = {"health_check_seconds": 0} | changes  # addresses in tests are nobody's to ask
        if name == "auth":
            changes = AUTH | changes
        main = importlib.import_module(f"{self.topology.service(name).module}.__main__")
        settings_type: type[Settings] = getattr(main, "SETTINGS", Settings)
        return settings_type.of(self.values(name, **changes))

    async def start(self, *names: str, **changes: Any) -> None:
        """Start services that do not run yet, and make all of them known to each other."""
        for name in names:
            if name not in self.runtimes:
                self.runtimes[name] = self._started[name] = await self._serve(name, **changes)
        for runtime in self.runtimes.values():
            targets = {name: f"dns:///127.0.0.1:{neighbour.port}" for name, neighbour in self.runtimes.items()}
            if any(target != runtime.neighbours.targets.get(name, target) for name, target in targets.items()):
                runtime.neighbours._renew()  # it has a channel to one that a test stopped
            runtime.neighbours.targets.update(targets)
            if "auth" in names:
                runtime.verifier.forget()

    async def launch(self, name: str, **changes: Any) -> Server:
        """Start one more server of a service, known to nobody. It ends with the test, if the test does not end it."""
        server = await self._serve(name, **changes)
        self._launched.append(server)
        return server

    @asynccontextmanager
    async def instead(self, name: str, **changes: Any) -> AsyncIterator[Runtime]:
        """Let one more server of a service take the calls of stubs that are made meanwhile."""
        usual, self.runtimes[name] = self.runtimes[name], await self.launch(name, **changes)
        try:
            yield self.runtimes[name]
        finally:
            self.runtimes[name] = usual

    async def _serve(self, name: str, **changes: Any) -> Server:
        main = importlib.import_module(f"{self.topology.service(name).module}.__main__")
        settings = self.settings(name, **changes)
        if settings.data_dir is not None:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        runtime = Server(settings)
        runtime.trust(self.issuer.keys)
        if name != "auth":  # which trusts its own keys
            runtime.trust(lambda: self._published_keys(runtime))
        try:
            await main.wire(runtime)
            await runtime.listen()
        except BaseException:
            await runtime.close()
            raise
        return runtime

    async def _published_keys(self, runtime: Runtime) -> list[SigningKey]:
        """The auth service's own keys, once it runs; most tests need no auth service."""
        if "auth" not in self.runtimes:
            return []
        runtime.neighbours.targets["auth"] = f"dns:///127.0.0.1:{self.runtimes['auth'].port}"
        return await runtime.ask_auth()

    async def tidy(self) -> None:
        """End what one test has begun, also when it failed: its channels, and what it launched; the services go on.

        A server that nobody stops would keep the lease of its outbox, and disturb tests that know nothing of it.
        """
        launched, self._launched = self._launched, []
        channels, self._channels = self._channels, []
        self._started = {name: server for name, server in self._started.items() if not server.stopped}
        self.runtimes.clear()
        self.runtimes.update(self._started)
        async with AsyncExitStack() as last_first:  # each is stopped, also when another cannot be
            for server in launched:
                last_first.push_async_callback(server.stop)
            for channel in channels:
                last_first.push_async_callback(channel.close)

    async def stop(self) -> None:
        """Stop them all."""
        self._launched = [*self._started.values(), *self._launched]
        self._started = {}
        await self.tidy()

    def person(self, role: "Role.ValueType" = Role.ROLE_ADMIN, *, tenant_id: str | None = None) -> Person:
        """Give somebody in a new tenant."""
        return Person(self, str(uuid.uuid4()), tenant_id or str(uuid.uuid4()), role)

    def anonymous(self, kind: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """Give a stub that calls without a token."""
        return kind(self.channel(kind, ()))

    async def service(self, name: str, on_behalf_of: Person | str) -> "ServicePeer":
        """Give a service, known by its certificate: on behalf of a person, or by itself in a tenant (id)."""
        if name not in self._identities:
            settings = self.settings(name)
            identity = Identity(service=name, trust_domain=settings.trust_domain, vault=Vault(settings))
            await identity.obtain()
            self._identities[name] = identity
        if isinstance(on_behalf_of, Person):
            return ServicePeer(self, self._identities[name], (("authorization", f"Bearer {on_behalf_of.token}"),))
        return ServicePeer(self, self._identities[name], of_tenant(on_behalf_of))

    def channel(self, kind: Any, metadata: Any, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
        """Give a channel to the service that serves this stub: plaintext, or mutual TLS when there are credentials."""
        name = self._serving(kind)

        def outfit(details: Any, _: Any) -> grpc.aio.ClientCallDetails:
            return adding(details, metadata=metadata, timeout=details.timeout or SECONDS)

        outgoing = interceptors("peer", outfit)
        runtime = self.runtimes[name]
        if credentials is None:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{runtime.plaintext_port}", interceptors=outgoing)
        else:
            options = [("grpc.ssl_target_name_override", name)]
            target = f"127.0.0.1:{runtime.port}"
            channel = grpc.aio.secure_channel(target, credentials, interceptors=outgoing, options=options)
        self._channels.append(channel)
        return channel

    def _serving(self, kind: Any) -> str:
        """triptych.projects.v1.… is served by projects."""
        return str(kind.__module__).split(".")[1]


@dataclass(frozen=True)
class ServicePeer:
    """A service of Triptych, as others see it."""

    suite: Suite
    identity: Identity
    metadata: tuple[tuple[str, str], ...]

    def stub(self, kind: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """Give a stub that calls as this service."""
        return kind(self.suite.channel(kind, self.metadata, self.identity.channel_credentials()))


@asynccontextmanager
async def superuser_of(backends: Backends, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
    """Connect to a database as somebody who sees everything."""
    connection = await backends.postgres_server.connect(database)
    try:
        yield connection
    finally:
        await connection.close()


def _segment(part: dict[str, Any]) -> str:
    return _encode(json.dumps(part, separators=(",", ":")).encode())


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
