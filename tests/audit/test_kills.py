"""kill -9 of audit, of PostgreSQL and of an emitter, again and again, under load.

Real processes, durable commits, servers of this test's own. What was acknowledged is in the log, once, and it verifies.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from services.audit import verifier
from services.cli.stack import settings as files
from services.cli.stack.backends import Backends
from services.cli.stack.supervisor import serving
from tests.audit.events import log_of
from tests.conftest import TEMPLATE, _migrate
from tests.patience import SECONDS, eventually, many_rounds
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

TIMES = 20
ROOT = Path(__file__).resolve().parents[2]


class Town:
    """PostgreSQL, OpenBao, an audit process and an emitter process."""

    def __init__(self, backends: Backends, folder: Path) -> None:
        self.backends = backends
        self.tenant_id = str(uuid.uuid4())
        self.notes = folder / "notes"
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.settings = backends.service_settings("audit", database=TEMPLATE)
        self.settings |= {"witness_dir": str(folder / "witness"), "neighbours": {}}
        self.settings.pop("metrics_listen")

    def start_audit(self) -> None:
        """Start audit, as `triptych up` does."""
        path = files.write(self.backends.home, self.settings)
        self._start("audit", ["-m", "services.audit"], {"TRIPTYCH_CONFIG": str(path)})

    def start_emitter(self) -> None:
        """Start the emitter."""
        given = self.backends.service_settings("projects", database=TEMPLATE)
        process = self._start("emitter", ["-m", "tests.audit.emitters", str(self.notes)], {})
        values = {
            "settings": given | {"neighbours": {}, "database_pool_size": 4},
            "audit": f"dns:///{self.settings['listen']}",
            "tenant_id": self.tenant_id,
        }
        assert process.stdin is not None
        process.stdin.write(json.dumps(values).encode() + b"\n")
        process.stdin.flush()

    def kill(self, name: str) -> None:
        """End a process as a power failure does."""
        process = self._running.pop(name)
        process.kill()
        process.wait(SECONDS)
        if process.stdin is not None:
            process.stdin.close()

    async def kill_postgres(self) -> None:
        """Kill the server and start it; it recovers from its write-ahead log."""
        held = self.backends.postgres.process
        assert held is not None
        held.popen.kill()
        held.popen.wait(SECONDS)
        await eventually(self._started)

    async def _started(self) -> bool:
        """Start PostgreSQL, unless it runs; at first its orphans may still hold the memory."""
        held = self.backends.postgres.process
        if held is None or not held.alive():
            self.backends.postgres.start()
            await asyncio.sleep(0.1)
        try:
            connection = await self.connect()
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    async def connect(self) -> asyncpg.Connection:
        """Connect as superuser, once."""
        server = self.backends.postgres_server
        return await asyncpg.connect(
            host=server.host, port=server.port, user=server.user, password=server.password, database=TEMPLATE, timeout=2
        )

    async def under_load(self) -> None:
        """Wait until audit serves and the emitter has noted something new."""
        before = self.noted()

        async def ready() -> bool:
            return self.noted() > before and await serving(self.settings["listen_plaintext"])

        await eventually(ready, explain=self._logs)

    async def noting(self) -> None:
        """Wait until the emitter has noted something new."""
        before = self.noted()

        async def new() -> bool:
            return self.noted() > before

        await eventually(new, explain=self._logs)

    def noted(self) -> int:
        """Bytes of notes so far."""
        return self.notes.stat().st_size if self.notes.exists() else 0

    def stop(self) -> None:
        """End what runs."""
        for name in list(self._running):
            self.kill(name)

    def _start(self, name: str, argv: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *argv],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
            )
        self._running[name] = process
        return process

    def _logs(self) -> str:
        return "\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in self._folder.glob("*.log"))


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    """Start servers of one's own, with durable commits."""
    folder = Path(tempfile.mkdtemp(prefix="triptych-kills-"))
    os.chmod(folder, 0o755)  # noqa: PTH101, S103 - the database's own user must pass; nothing else runs yet
    backends = Backends(folder / "stack")
    backends.start()
    made = None
    try:
        backends.create_database(TEMPLATE)
        await _migrate(backends, TEMPLATE)
        made = Town(backends, folder)
        made.start_audit()
        made.start_emitter()
        await made.under_load()
        yield made
    finally:
        if made is not None:
            made.stop()
        backends.stop()
        shutil.rmtree(folder, ignore_errors=True)


@many_rounds
async def test_what_was_acknowledged_is_in_the_log_once_whoever_is_killed() -> None:
    dice = random.Random(4711)  # noqa: S311 - when to kill
    async with town() as there:
        for _ in range(TIMES):
            await asyncio.sleep(dice.uniform(0.0, 0.15))
            there.kill("audit")
            there.kill("emitter")
            there.start_audit()
            there.start_emitter()
            await there.under_load()
            await asyncio.sleep(dice.uniform(0.0, 0.15))
            await there.kill_postgres()
            await there.noting()
        await _delivered(there)
        await _each_once(there)
        await _verifies(there)


async def _delivered(there: Town) -> None:
    """Let the emitter deliver what it has: one that starts anew, and emits little before it is through."""
    connection = await there.connect()

    async def empty() -> bool:
        waiting = await connection.fetchval("SELECT count(*) FROM projects.outbox WHERE deliver_time IS NULL")
        return int(waiting) < 500

    await eventually(empty, explain=there._logs)
    there.kill("emitter")
    await connection.close()


async def _each_once(there: Town) -> None:
    noted = [name for line in there.notes.read_text().splitlines() for name in line.split()]
    connection = await there.connect()
    pending = {
        row["entity"].partition(":")[2]
        for row in await connection.fetch("SELECT entity FROM projects.outbox WHERE deliver_time IS NULL")
    }
    rows = await connection.fetch(
        "SELECT entity, event_id, seq, leaf FROM audits.audit_log WHERE tenant_id = $1", uuid.UUID(there.tenant_id)
    )
    logged = [row["entity"].partition(":")[2] for row in rows]
    assert len(noted) > TIMES * 10
    assert len(logged) == len(set(logged)) == len({row["event_id"] for row in rows})
    assert not set(noted) - set(logged) - pending, "an acknowledged event was lost"
    receipts = await connection.fetch(
        "SELECT event_id, log_seq, log_leaf FROM projects.outbox WHERE deliver_time IS NOT NULL"
    )
    places = {row["event_id"]: (row["seq"], row["leaf"].hex()) for row in rows}
    for receipt in receipts:
        assert places[receipt["event_id"]] == (receipt["log_seq"], receipt["log_leaf"])
    await connection.close()


async def _verifies(there: Town) -> None:
    """Stop what was killed so often, and ask a service that starts on what it left."""
    there.stop()
    suite = Suite(there.backends, TEMPLATE, there._folder / "data")
    try:
        await suite.start("audit", witness_dir=there.settings["witness_dir"])
        log = await log_of(suite, suite.person(Role.ROLE_ADMIN, tenant_id=there.tenant_id))
        result = await log.verify()
        assert result.verdict == pb.LOG_VERDICT_OK, result.finding
        assert result.cosignatures
        anchors = verifier.read_anchors(
            [result.checkpoint.public_key], witness_keys=[result.cosignatures[0].public_key]
        )
        answer = verifier.verify((await log.export()).splitlines(keepends=True), anchors)
        assert answer.verdict == "ok", answer.text
    finally:
        await suite.stop()
