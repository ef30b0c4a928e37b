"""Step 10: the log of all of it is exported and verified without a server; and a forgery is found."""

import asyncio
import collections
import json
import subprocess
import sys
from pathlib import Path

from services.audit import verifier
from services.cli.demo.stage import Stage
from services.kit import faults
from triptych.audit.v1.audit_service_pb2 import (
    ExportEventsRequest,
    GetCheckpointRequest,
    ListEventsRequest,
    VerifyLogRequest,
)
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.event_pb2 import Checkpoint

PATIENCE_SECONDS = 20.0


async def the_log_proves_it(stage: Stage) -> None:
    """Verify online, export, verify offline, forge and verify again."""
    tell = stage.narrator
    tell.begin(10, "The audit log proves all of it")
    audit = stage.cast["Katherine"].client.stub(AuditServiceStub)
    checkpoint = await _settled(stage)
    tell.call("Katherine", "AuditService.GetCheckpoint", f"{checkpoint.size} events")
    tell.got(f"root {checkpoint.root_hash}, signed by OpenBao with key version {checkpoint.key_version}")
    async for progress in audit.VerifyLog(VerifyLogRequest()):
        last = progress
    tell.call("Katherine", "AuditService.VerifyLog", f"{last.verified} of {last.total}")
    export = stage.folder / "audit.jsonl"
    with export.open("wb") as file:
        async for message in audit.ExportEvents(ExportEventsRequest()):
            file.write(message.chunk)
    tell.call("Katherine", "AuditService.ExportEvents", f"{export.stat().st_size} bytes, {_sources(export)}")
    answer = _verify(export, checkpoint)
    tell.call("anybody", "python verifier.py audit.jsonl", "no server, no database")
    tell.got(answer.stdout.strip())
    tell.check(answer.returncode == 0, f"the export should verify: {answer.stdout}{answer.stderr}")
    forged = stage.folder / "forged.jsonl"
    forged.write_text(_forge(export.read_text()))
    found = _verify(forged, checkpoint)
    tell.say("One word of an approval is rewritten in the file:")
    tell.got(found.stdout.strip())
    tell.check(found.returncode == 1, "the forgery should be found")


async def _settled(stage: Stage) -> Checkpoint:
    """Wait until every event has arrived and a checkpoint covers them."""
    audit = stage.cast["Katherine"].client.stub(AuditServiceStub)
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    before = -1
    while asyncio.get_running_loop().time() < deadline:
        newest = (await audit.ListEvents(ListEventsRequest(page_size=1))).entries
        count = newest[0].seq + 1 if newest else 0
        try:
            checkpoint = (await audit.GetCheckpoint(GetCheckpointRequest(min_size=count))).checkpoint
        except faults.NotFound:
            checkpoint = Checkpoint()
        if count and count == before and checkpoint.size >= count:
            return checkpoint
        before = count
        await asyncio.sleep(1.0)
    stage.narrator.check(False, "no checkpoint covered the log in time")
    raise AssertionError("unreachable")


def _verify(export: Path, checkpoint: Checkpoint) -> "subprocess.CompletedProcess[str]":
    """Run the stand-alone verifier, which trusts nothing but the public key."""
    command = [sys.executable, str(verifier.__file__), str(export), "--public-key", checkpoint.public_key]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def _sources(export: Path) -> str:
    """Count the events per service."""
    counts: collections.Counter[str] = collections.Counter()
    for line in export.read_text().splitlines():
        if body := json.loads(line).get("body"):
            counts[json.loads(body)["source"]] += 1
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _forge(text: str) -> str:
    """Change a word of an approval, as somebody might who can write to the file."""
    lines = text.splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if "experiments.promotion.approve" in line)
    lines[place] = lines[place].replace("numbers convince", "numbers compel")
    return "".join(lines)
