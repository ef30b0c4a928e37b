"""Recovery: a process that dies between approval and completion loses nothing, and nothing happens twice."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from services.governance.experiments.settings import ExperimentsSettings
from services.kit import faults
from services.kit.settings import SettingsInvalid
from tests.experiments.stages import Stages
from tests.patience import SECONDS, end, within
from tests.suite import Suite
from triptych.experiments.v1 import promotion_pb2, promotion_service_pb2 as pb
from triptych.experiments.v1.promotion_service_pb2_grpc import PromotionServiceStub
from triptych.projects.v1 import version_pb2, version_service_pb2
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub

CHILD = Path(__file__).with_name("children") / "service.py"
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def victim(suite: Suite) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Start a process that kills itself right after an approval is committed."""
    neighbours = {"projects": f"dns:///127.0.0.1:{suite.runtimes['projects'].port}"}
    settings = suite.values(
        "experiments", crash_after="promotion.approved", profile="development", neighbours=neighbours
    )
    settings["relay_user"] = ""
    (key,) = await suite.issuer.keys()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
    )  # fmt: skip
    try:
        assert process.stdin is not None
        given = json.dumps({"settings": settings, "key": key.public_key.hex()}, default=str)
        process.stdin.write(given.encode() + b"\n")
        await process.stdin.drain()
        yield process, await within(port_of(process))
    finally:
        end(process)


async def port_of(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    async for line in process.stdout:  # its log comes first
        if line.strip().isdigit():
            return int(line)
    pytest.fail("the process ended without a port")


async def approve(stages: Stages, promotion: promotion_pb2.Promotion, port: int) -> grpc.StatusCode:
    """Approve through the process that dies."""
    request = pb.ApprovePromotionRequest(
        promotion_id=promotion.id, subject_digest=promotion.subject_digest, reason="agreed"
    )
    metadata = (("authorization", f"Bearer {stages.reviewer.token}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await PromotionServiceStub(channel).ApprovePromotion(request, metadata=metadata, timeout=SECONDS)
    return caught.value.code()


async def test_a_process_killed_after_the_approval_loses_nothing(suite: Suite) -> None:
    stages = await Stages.open(suite)
    promotion = await stages.ask()
    async with victim(suite) as (process, port):
        assert await approve(stages, promotion, port) is grpc.StatusCode.UNAVAILABLE
        assert await within(process.wait()) == -9
    found = await stages.settled(promotion)  # the service that is still there finds it
    assert found.state == promotion_pb2.PROMOTION_STATE_COMPLETED
    assert await stages.production() == promotion.from_version_id
    history = version_service_pb2.ListVersionHistoryRequest(
        project_id=stages.project_id, version_id=promotion.from_version_id
    )
    entries = (await stages.author.stub(VersionServiceStub).ListVersionHistory(history)).entries
    assert [entry.action for entry in entries].count(version_pb2.VERSION_ACTION_PROMOTED) == 1


@pytest.fixture
async def brisk(suite: Suite, tmp_path: Path) -> AsyncIterator[Stages]:
    """The same services once more, with a background loop that hardly sleeps."""
    other = Suite(suite.backends, suite.database, tmp_path)
    other.issuer = suite.issuer
    try:
        await other.start("projects")
        await other.start("experiments", reconcile_seconds=0.05)
        yield await Stages.open(other)
    finally:
        await other.stop()


async def promote(stages: Stages, version_id: str, expected: str = "") -> None:
    """Move production by the service's own right, as if somebody had been faster."""
    service = await stages.suite.service("experiments", stages.author.tenant_id)
    request = version_service_pb2.PromoteVersionRequest(
        version_id=version_id,
        expected_production_version_id=expected,
        approved_by=stages.reviewer.id,
        reason="faster",
    )
    await service.stub(VersionServiceStub).PromoteVersion(request)


async def test_an_approved_promotion_waits_for_projects_to_come_back(brisk: Stages) -> None:
    suite, promotion = brisk.suite, await brisk.ask()
    projects = suite.runtimes.pop("projects")
    await projects.stop()
    with pytest.raises(faults.Unavailable):
        await brisk.approve(promotion)
    await brisk.write_approval(promotion)
    suite.runtimes["projects"] = await suite.launch("projects", listen=f"127.0.0.1:{projects.port}")
    assert (await brisk.settled(promotion)).state == promotion_pb2.PROMOTION_STATE_COMPLETED
    assert await brisk.production() == promotion.from_version_id


async def test_production_that_moved_before_completion_rejects_it(brisk: Stages) -> None:
    promotion, other = await brisk.ask(), await brisk.create()
    await promote(brisk, other.version_id)
    await brisk.write_approval(promotion)
    found = await brisk.settled(promotion)
    assert found.state == promotion_pb2.PROMOTION_STATE_REJECTED
    assert "PRODUCTION_MOVED" in found.reject_reason
    assert await brisk.production() == other.version_id


async def test_a_version_that_entered_and_left_again_before_it_was_noted_counts_as_completed(brisk: Stages) -> None:
    promotion, other = await brisk.ask(), await brisk.create()
    await promote(brisk, promotion.from_version_id)
    await promote(brisk, other.version_id, promotion.from_version_id)
    await brisk.write_approval(promotion)
    assert (await brisk.settled(promotion)).state == promotion_pb2.PROMOTION_STATE_COMPLETED
    assert await brisk.production() == other.version_id


async def test_a_promotion_that_nobody_decides_on_expires(suite: Suite, tmp_path: Path) -> None:
    other = Suite(suite.backends, suite.database, tmp_path)
    other.issuer = suite.issuer
    try:
        await other.start("projects")
        await other.start("experiments", promotion_days=0, reconcile_seconds=0.05)
        stages = await Stages.open(other)
        found = await stages.settled(await stages.ask())
        assert (found.state, found.reject_reason) == (promotion_pb2.PROMOTION_STATE_REJECTED, "it expired")
    finally:
        await other.stop()


def test_the_production_profile_does_not_crash_on_purpose(tmp_path: Path) -> None:
    values = {
        "service": "experiments", "database_url": "postgresql://x@127.0.0.1/x", "database_password_file": tmp_path,
        "vault_url": "http://127.0.0.1", "vault_role_id_file": tmp_path, "vault_secret_id_file": tmp_path,
    }  # fmt: skip
    assert ExperimentsSettings.of(values).crash_after == ""
    for wrong in (
        {"crash_after": "promotion.approved"},
        {"crash_after": "made.up", "profile": "development"},
        {"required_approvals": 0},
    ):
        with pytest.raises(SettingsInvalid):
            ExperimentsSettings.of(values | wrong)
