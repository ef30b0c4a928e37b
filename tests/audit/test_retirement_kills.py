"""kill -9 of the audit service at each step of a retirement. The next one goes on there, and nothing is lost.

A real process on two logs of past months. It ends in the middle of steps, between a step and its commit, and between
two steps; after each of the kills everything is still there, in the log or in archives that verify by themselves.
"""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from datetime import date
from pathlib import Path

from services.audit import archives, verifier
from services.audit.verifier import Anchors, includes
from services.cli.stack import settings
from services.cli.stack.backends import Backends
from tests.audit.events import Log
from tests.audit.months import Past, public_key
from tests.audit.test_kills import ROOT
from tests.patience import SECONDS, eventually, many_rounds
from tests.suite import superuser_of
from triptych.audit.v1 import audit_service_pb2 as pb

COMMITTED = "db.Transaction.committed"
STEPS = (
    ("retirements.Retirements._retire",),  # nothing is written
    ("retirements.Retirements._manifest",),  # it is planned
    ("retirements._Reader._start",),
    ("manifests.store",),  # the manifest has its place in the log, and no commit
    ("manifests.store", "retirements.Retirements._manifest"),  # the first log has its manifest
    ("manifests.store", "retirements.Retirements._archive"),  # and the second
    ("retirements.Retirements._covering",),  # no checkpoint is over them
    ("archives.Writer.add",),  # files are begun
    ("archives.Writer.end",),  # all entries are in them, or on their way
    ("archives.verify",),  # the first is finished, and was not read back
    ("archives.digest_of",),  # and verified
    ("archives._File.publish", "archives.verify"),  # one has its name, the next does not
    ("archives._sync",),  # all have, and no row says so
    ("manifests.archived",),
    ("manifests.archived", COMMITTED),  # somebody commits
    ("retirements.Retirements._until_free",),  # all have
    ("retirements.Retirements._tell",),  # the month is detached
    ("retirements.Retirements._tell", "logs.record"),
    ("retirements.Retirements._tell", COMMITTED),
    ("retirements.Retirements._tell", "retirements.Retirements._until_free"),  # the system's log tells of it
    ("retirements.Retirements._tell", "retirements.Retirements._until_free", COMMITTED),  # dropping is under way
)


class Process:
    """The audit service on its own, which retires what ended twenty days ago."""

    def __init__(self, then: Past, folder: Path) -> None:
        self._log = folder / "log"
        self._config = folder / "audit.toml"
        values = then.log.suite.values("audit", online_days=20, archive_dir=str(then.folder), log_level="info")
        self._config.write_text(settings.toml(values))

    def start(self, *steps: str) -> "subprocess.Popen[bytes]":
        """Start it, to be killed at these steps."""
        environment = os.environ | {"TRIPTYCH_CONFIG": str(self._config), "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.audit.retirers", *steps],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    async def ends(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait until it has killed itself."""

        async def over() -> bool:
            return process.poll() is not None

        try:
            await eventually(over, explain=self.said)
            assert process.returncode == -9, self.said()
        finally:
            await kill(process)

    async def goes_through(self, then: Past) -> None:
        """Let it finish what it was killed at."""
        last = self.start()
        try:
            await eventually(lambda: gone(then), explain=self.said)
        finally:
            last.terminate()
            try:
                await asyncio.to_thread(last.wait, SECONDS)
            finally:
                await kill(last)

    def said(self) -> str:
        """Give the end of its log."""
        return self._log.read_text()[-3000:]


async def kill(process: "subprocess.Popen[bytes]") -> None:
    """End it, if it still runs."""
    process.kill()
    await asyncio.to_thread(process.wait, SECONDS)


async def sign(then: Past) -> None:
    """Have everything signed, listed and witnessed."""
    await then.sign()
    for log in (then.log, then.other):
        result = await log.verify()
        assert result.verdict == pb.LOG_VERDICT_OK, result.finding


async def places(then: Past, month: date) -> dict[str, set[int]]:
    """Give the entries of each log that are in the database, or in archives that verify by themselves."""
    found: dict[str, set[int]] = {log.tenant_id: set() for log in (then.log, then.other)}
    tables = ["audits.audit_log"]
    if await then.superuser.fetchval("SELECT to_regclass($1)", f"audits.audit_log_{month:%Y_%m}"):
        tables.append(f"audits.audit_log_{month:%Y_%m}")  # of the log, or detached from it
    for table in tables:
        for row in await then.superuser.fetch(f"SELECT tenant_id, seq FROM {table}"):
            found.setdefault(str(row["tenant_id"]), set()).add(row["seq"])
    key = await public_key(then)
    for path in then.folder.rglob(f"*{archives.SUFFIX}"):
        archives.verify(path, key, verifier.ORIGIN)
        held = [json.loads(line) for line in archives.lines(path)]
        found[held[0]["log_id"]] |= {line["seq"] for line in held if "body" in line}
    return found


async def nothing_is_lost(then: Past) -> None:
    found = await places(then, then.months[0])
    for log in (then.log, then.other):
        assert found[log.tenant_id] >= set(range(log.count)), "an entry is neither in the log nor in an archive"
    pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"
    assert await then.superuser.fetchval(pending) == 0, "a month is neither in the log nor out of it"


async def is_proven(log: Log) -> None:
    """Each event has its proof, whether its month has left the log or not."""
    await log.verify()
    for place, event in enumerate(log.events):
        answer = await log.reader.GetInclusionProof(pb.GetInclusionProofRequest(event_id=event.event_id))
        assert (answer.entry.seq, answer.entry.event.event_id) == (place, event.event_id)
        assert includes(
            leaf=bytes.fromhex(answer.entry.leaf_hash),
            index=answer.entry.seq,
            size=answer.checkpoint.size,
            hashes=[bytes.fromhex(value) for value in answer.hashes],
            root=bytes.fromhex(answer.checkpoint.root_hash),
        )


@many_rounds
async def test_whoever_is_killed_at_any_step_of_a_retirement_goes_on_and_loses_nothing(
    then: Past, tmp_path: Path
) -> None:
    held = [checkpoint_of(await then.log.verify())]
    process = Process(then, tmp_path)
    for steps in STEPS:
        await process.ends(process.start(*steps))
        await sign(then)
        await nothing_is_lost(then)
    await process.goes_through(then)
    await sign(then)
    await nothing_is_lost(then)
    await is_proven(then.log)
    await is_proven(then.other)
    await was_done_once(then)
    answer = verifier.verify((await then.log.export()).splitlines(keepends=True), Anchors(checkpoints=held))
    assert answer.verdict == "ok", answer.text


def checkpoint_of(result: pb.VerifyLogResponse) -> verifier.Checkpoint:
    names = ("log_id", "size", "root_hash", "note", "signature", "public_key")
    return verifier.Checkpoint.read({name: getattr(result.checkpoint, name) for name in names})


async def gone(then: Past) -> bool:
    state = await then.superuser.fetchval("SELECT state FROM audits.retirements WHERE month = $1", then.months[0])
    return bool(state == "dropped")


async def was_done_once(then: Past) -> None:
    month = f"month:{then.months[0]:%Y-%m}"
    count = "SELECT count(*) FROM audits.audit_log WHERE tenant_id = $1 AND entity = $2 AND action = $3"
    for log in (then.log, then.other):
        told = await then.superuser.fetchval(count, uuid.UUID(log.tenant_id), month, "audit.month.retire")
        assert told == 1
    assert await then.superuser.fetchval(count, uuid.UUID(int=0), month, "audit.month.drop") == 1
    assert not list(then.folder.rglob("*.part"))


async def test_whoever_is_killed_while_detaching_waits_leaves_the_month_in_the_log(
    then: Past, backends: Backends, tmp_path: Path
) -> None:
    process = Process(then, tmp_path)
    await process.ends(process.start("retirements.Retirements._covering"))
    await sign(then)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%detach_month%'"

    async def waiting() -> bool:
        return bool(await then.superuser.fetchval(waits))

    async with superuser_of(backends, then.log.suite.database) as reader, reader.transaction():
        await reader.execute("SELECT 1 FROM audits.audit_log LIMIT 1")  # detaching has to wait for it
        stuck = process.start()
        try:
            await eventually(waiting, explain=process.said)
        finally:
            await kill(stuck)

    async def quiet() -> bool:
        return not await then.superuser.fetchval(waits)

    await eventually(quiet)
    await sign(then)
    await nothing_is_lost(then)
    assert not await gone(then)
    await process.goes_through(then)
    await sign(then)
    await nothing_is_lost(then)
