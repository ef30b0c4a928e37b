"""ResolveKey against OpenBao's own decrypt and against a server that does nothing; re-wrapping against bare transit.

`python -m tests.bench.keys echo` is the server that does nothing: the same port, certificates, interceptor and message.
`python -m tests.bench.keys load ours|vault` is one more client process, for the load under which cores are counted.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import hvac
import psutil

from services.cli.stack import openbao
from services.cli.stack.backends import Backends
from services.cli.stack.settings import toml
from services.kit import outbox
from services.kit.clients import of_tenant
from services.kit.db import Database
from services.kit.identity import Identity
from services.kit.server import Runtime, serve
from services.kit.settings import Settings
from services.kit.vault import Vault
from services.providers import rewraps
from services.providers.settings import ProvidersSettings
from tests.bench.results import Result, ratio
from tests.conftest import TEMPLATE, _migrate
from tests.providers import hoards
from triptych.providers.v1 import key_service_pb2 as pb, key_service_pb2_grpc as key_grpc

TENANT = "0197a3a0-0000-7000-8000-000000000001"
ROUNDS = 7
SECONDS = 1.5
CALLERS = 32
THREADS = 4
CLIENTS = 2
STOCK = 20_000
SERVICE = "triptych.providers.v1.KeyService"


class Echo(key_grpc.KeyServiceServicer):
    """Answers ResolveKey without looking anything up."""

    async def ResolveKey(self, request: pb.ResolveKeyRequest, context: object) -> pb.ResolveKeyResponse:
        outbox.unchanged()
        return pb.ResolveKeyResponse(key_id=request.provider_id, api_key="sk-00000000000000000000000000000000")


async def wire_echo(runtime: Runtime) -> None:
    """The composition root of the server that does nothing."""
    await runtime.open()
    runtime.add(SERVICE, key_grpc.add_KeyServiceServicer_to_server, Echo())  # type: ignore[abstract]


@dataclass
class Side:
    """What is called, and the processes that it keeps busy."""

    processes: list[psutil.Process]
    given: dict[str, Any]

    def busy(self) -> float:
        """Seconds of processor time so far, children included."""
        every = {child for each in self.processes for child in (each, *each.children(recursive=True))}
        return sum(sum(process.cpu_times()[:2]) for process in every)


class Caller:
    """One client of ResolveKey, known by its certificate."""

    def __init__(self, given: dict[str, Any], identity: Identity) -> None:
        options = [("grpc.ssl_target_name_override", "providers")]
        self._channel = grpc.aio.secure_channel(
            f"127.0.0.1:{given['port']}", identity.channel_credentials(), options=options
        )
        self._resolve = key_grpc.KeyServiceStub(self._channel).ResolveKey
        self._request = pb.ResolveKeyRequest.FromString(base64.b64decode(given["request"]))

    async def rate(self, seconds: float = SECONDS) -> float:
        """Call as fast as it answers and give calls a second."""
        metadata, count, end = of_tenant(TENANT), 0, time.perf_counter() + seconds

        async def call() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await self._resolve(self._request, metadata=metadata)
                count += 1

        await call()
        count, began = 0, time.perf_counter()
        end = began + seconds
        await asyncio.gather(*(call() for _ in range(CALLERS)))
        return count / (time.perf_counter() - began)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def decrypt_rate(given: dict[str, Any], seconds: float = SECONDS) -> float:
    """Decrypt as fast as OpenBao answers one hvac client, with the threads that the kit gives it."""
    client = openbao.connect(given["vault_url"], given["token"])

    def call(end: float) -> int:
        count = 0
        while time.perf_counter() < end:
            client.adapter.request("post", "/v1/transit/decrypt/providers-kek", json=given["wrapped"])
            count += 1
        return count

    began = time.perf_counter()
    with ThreadPoolExecutor(given["threads"]) as pool:
        count = sum(pool.map(call, [began + seconds] * given["threads"]))
    return count / (time.perf_counter() - began)


def resolve() -> list[Result]:
    """ResolveKey with its data key in memory."""
    with _stack() as (backends, client):
        return asyncio.run(_resolve(backends, client))


def rewrap() -> list[Result]:
    """The whole stock to a new version, database included, against the same batches sent to OpenBao alone."""
    with _stack() as (backends, client):
        return asyncio.run(_rewrap(backends, client))


async def _resolve(backends: Backends, client: hvac.Client) -> list[Result]:
    (key,) = await _fill(backends, client, 1)
    given = {"request": base64.b64encode(key.request.SerializeToString()).decode()}
    identity = await _identity(backends)
    with _server(backends, ["services.providers"]) as ours, _server(backends, ["tests.bench.keys", "echo"]) as echo:
        ours.given |= given
        echo.given |= given
        bao = await _vault_side(backends, key)
        callers = [Caller(side.given, identity) for side in (ours, echo)]
        pairs, echoes = [], []
        for _ in range(ROUNDS + 1):
            rate = await callers[0].rate()
            pairs.append((rate, max(_best(bao))))
            echoes.append((rate, await callers[1].rate()))
        for caller in callers:
            await caller.close()
        cores = [(await _per_core(ours, "ours"), await _per_core(bao, "vault")) for _ in range(3)]
    note = f"calls/s, 1 client process each: {CALLERS} callers against the better of 1 and {THREADS} hvac threads"
    core = f"calls per second of server processor time (PostgreSQL included), {CLIENTS} client processes each"
    same = "calls/s against ResolveKey that answers at once behind the same TLS, interceptor and message"
    return [
        ratio("resolve_vs_vault_client", pairs[1:], goal=">= 3", note=note),
        ratio("resolve_vs_vault_core", cores, goal=">= 1", note=core),
        ratio("resolve_vs_echo", echoes[1:], goal=">= 0.7", note=same),
    ]


def _best(bao: Side) -> Iterator[float]:
    for threads in (1, THREADS):
        yield decrypt_rate(bao.given | {"threads": threads}, SECONDS / 2)


async def _per_core(side: Side, kind: str) -> float:
    """Calls under the load of several client processes, by processor time of the servers."""
    command = [sys.executable, "-m", "tests.bench.keys", "load", kind]
    loads = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)
    ]
    for load in loads:
        assert load.stdin is not None
        assert load.stdout is not None
        load.stdin.write(json.dumps(side.given | {"threads": THREADS}) + "\n")
        load.stdin.flush()
        load.stdout.readline()  # it is warm
    before = side.busy()
    for load in loads:
        assert load.stdin is not None
        load.stdin.write("go\n")
        load.stdin.flush()
    calls = sum(float(load.communicate()[0]) for load in loads)
    return calls / (side.busy() - before)


async def _load(kind: str) -> None:
    """One client process: warm up, wait for the word, call, say how often."""
    given = json.loads(sys.stdin.readline())
    if kind == "ours":
        identity = Identity(
            service="experiments", trust_domain="triptych", vault=Vault(Settings.of(given["experiments"]))
        )
        await identity.obtain()
        caller = Caller(given, identity)
        await caller.rate(0.5)
        print("warm", flush=True)
        sys.stdin.readline()
        print(await caller.rate(3.0) * 3.0)
        await caller.close()
    else:
        decrypt_rate(given, 0.5)
        print("warm", flush=True)
        sys.stdin.readline()
        print(decrypt_rate(given, 3.0) * 3.0)


async def _rewrap(backends: Backends, client: hvac.Client) -> list[Result]:
    keys = await _fill(backends, client, STOCK)
    settings = ProvidersSettings.of(_values(backends))
    secrets = backends.home.path / "secrets"
    vault = Vault(
        replace(
            settings,
            vault_role_id_file=secrets / "approle-providers-rewrapper.role",
            vault_secret_id_file=secrets / "approle-providers-rewrapper.secret",
        )
    )
    db = await Database.connect(settings)
    pairs = []
    for _ in range(ROUNDS + 1):
        superuser = await backends.postgres_server.connect(TEMPLATE)
        old = await superuser.fetch("SELECT id, tenant_id, encrypted_dek FROM providers.user_providers")
        await superuser.execute("VACUUM providers.user_providers")
        await superuser.close()
        client.adapter.request("post", "/v1/transit/keys/providers-kek/rotate")
        bare = await _bare(vault, old)
        began = time.perf_counter()
        report = await rewraps.run(db, vault)
        assert report.stored == len(keys), report
        pairs.append((len(keys) / (time.perf_counter() - began), bare))
    await db.close()
    vault.close()
    note = f"keys/s of {STOCK}, batches of {rewraps.BATCH}, one request after the other on both sides"
    return [ratio("rewrap_vs_transit", pairs[1:], goal=">= 0.8", note=note)]


async def _bare(vault: Vault, rows: list[Any]) -> float:
    """Send the same batches in the same way, and forget the answers."""
    began = time.perf_counter()
    for start in range(0, len(rows), rewraps.BATCH):
        await rewraps.rewrapped(vault, rows[start : start + rewraps.BATCH])
    return len(rows) / (time.perf_counter() - began)


@contextmanager
def _stack() -> Iterator[tuple[Backends, hvac.Client]]:
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as folder:
        Path(folder).chmod(0o755)
        backends = Backends(Path(folder) / "stack")
        backends.start()
        try:
            backends.create_database(TEMPLATE)
            asyncio.run(_migrate(backends, TEMPLATE))
            yield backends, openbao.connect(backends.openbao.url, backends.openbao.token_file.read_text())
        finally:
            backends.stop()


async def _fill(backends: Backends, client: hvac.Client, count: int) -> list[hoards.Stored]:
    superuser = await backends.postgres_server.connect(TEMPLATE)
    keys = await hoards.fill(superuser, client, TENANT, count)
    await superuser.close()
    return keys


def _values(backends: Backends) -> dict[str, Any]:
    values = backends.service_settings("providers", database=TEMPLATE)
    values |= {"listen": "127.0.0.1:0", "listen_plaintext": "", "neighbours": {}, "relay_user": ""}
    values.pop("metrics_listen")
    return values


async def _identity(backends: Backends) -> Identity:
    settings = Settings.of(backends.service_settings("experiments", database=TEMPLATE))
    identity = Identity(service="experiments", trust_domain="triptych", vault=Vault(settings))
    await identity.obtain()
    return identity


@contextmanager
def _server(backends: Backends, module: list[str]) -> Iterator[Side]:
    """Start a server process of its own and wait until it says where it listens."""
    values = _values(backends)
    config = backends.home.write("run", f"{module[-1]}.toml", toml(values))
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        env={**os.environ, "TRIPTYCH_CONFIG": str(config)},
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdout is not None
    try:
        port = next(json.loads(line)["port"] for line in process.stdout if '"serving"' in line)
        drain = ThreadPoolExecutor(1)
        drain.submit(process.stdout.read)
        postgres = backends.postgres.process
        assert postgres is not None
        experiments = backends.service_settings("experiments", database=TEMPLATE)
        given = {"port": port, "experiments": experiments}
        yield Side([psutil.Process(process.pid), psutil.Process(postgres.popen.pid)], given)
    finally:
        process.terminate()
        process.wait(10)


async def _vault_side(backends: Backends, key: hoards.Stored) -> Side:
    superuser = await backends.postgres_server.connect(TEMPLATE)
    wrapped = await superuser.fetchval("SELECT encrypted_dek FROM providers.user_providers")
    await superuser.close()
    vault = Vault(ProvidersSettings.of(_values(backends)))
    vault._login()
    process = backends.openbao.process
    assert process is not None
    given = {
        "vault_url": backends.openbao.url,
        "token": vault._client.token,
        "wrapped": {"ciphertext": wrapped, "context": key.binding.context},
    }
    return Side([psutil.Process(process.popen.pid)], given)


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        serve(ProvidersSettings, wire_echo)
    else:
        asyncio.run(_load(sys.argv[2]))
