"""The signer: what it signs, what it refuses, and what happens while OpenBao is away."""

import asyncio
from pathlib import Path

import pytest

from services.audit import verifier
from services.audit.signers import Signer
from services.kit import faults
from services.kit.server import Runtime
from tests.audit.events import Log, log_of, processes
from tests.conftest import copy_database
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role


def signer_of(runtime: Runtime) -> Signer:
    return Signer(db=runtime.db, vault=runtime.vault, origin=verifier.ORIGIN, seconds=1.0)


async def test_a_checkpoint_is_signed_by_the_key_in_openbao(log: Log) -> None:
    await log.grow(2)
    signer = signer_of(log.suite.runtimes["audit"])
    await signer.cover(log.tenant_id)
    found = (await log.reader.GetCheckpoint(pb.GetCheckpointRequest())).checkpoint
    keys = await signer.keys()
    statement = verifier.Checkpoint.read(
        {name: getattr(found, name) for name in ("log_id", "size", "root_hash", "note", "signature", "public_key")}
    )
    statement.check(keys=[keys[found.key_version]])
    assert statement.public_key == keys[found.key_version]


async def test_signers_side_by_side_make_one_checkpoint_of_a_size(log: Log) -> None:
    await log.grow(4)
    runtime = log.suite.runtimes["audit"]
    await asyncio.gather(*(signer_of(runtime).cover(log.tenant_id) for _ in range(4)))
    assert (await log.reader.GetCheckpoint(pb.GetCheckpointRequest())).checkpoint.size == 4
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK


async def test_one_round_signs_every_log_with_news(log: Log) -> None:
    others = [await log_of(log.suite, log.suite.person(Role.ROLE_ADMIN)) for _ in range(10)]
    for other in others:
        await other.grow(2)
    await signer_of(log.suite.runtimes["audit"]).sign_news()
    for other in others:
        assert (await other.reader.GetCheckpoint(pb.GetCheckpointRequest(min_size=2))).checkpoint.size == 2


async def test_while_openbao_is_away_events_come_in_and_are_signed_later(suite: Suite, tmp_path: Path) -> None:
    async with processes(suite, tmp_path, "audit") as other:
        log = await log_of(other, other.person(Role.ROLE_ADMIN))
        await log.grow(3)
        assert (await log.verify()).verdict == pb.LOG_VERDICT_OK
        adapter = other.runtimes["audit"].vault._client.adapter
        address, adapter.base_uri = adapter.base_uri, "http://127.0.0.1:9"
        await log.grow(3)
        with pytest.raises(faults.DependencyUnavailable):
            await signer_of(other.runtimes["audit"]).cover(log.tenant_id)
        adapter.base_uri = address
        await log.grow(1)
        result = await log.verify()
        assert (result.verdict, result.checkpoint.size) == (pb.LOG_VERDICT_OK, 7)


async def test_a_log_that_cannot_be_signed_now_is_unanchored(suite: Suite, tmp_path: Path) -> None:
    database = f"{suite.database}_unsigned"  # where no other process signs
    copy_database(suite.backends, database)
    async with processes(suite, tmp_path, "audit", database=database) as other:
        log = await log_of(other, other.person(Role.ROLE_ADMIN))
        await log.grow(3)
        assert (await log.verify()).verdict == pb.LOG_VERDICT_OK
        other.runtimes["audit"].vault._client.adapter.base_uri = "http://127.0.0.1:9"
        await log.grow(3)
        result = await log.verify()
        assert (result.verdict, result.checkpoint.size, result.verified) == (pb.LOG_VERDICT_UNANCHORED, 3, 6)
        assert "could not be signed" in result.finding
