"""The suite itself: what a test began ends with it, however the test ended."""

from contextlib import suppress

import grpc
import pytest

from tests.experiments.stages import Stages, configuration
from tests.suite import Suite
from triptych.projects.v1.project_service_pb2 import ListProjectsRequest
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub


async def test_what_a_test_launches_ends_with_it_and_the_services_go_on(suite: Suite) -> None:
    await suite.start("projects")
    usual, lonely = suite.runtimes["projects"], await suite.launch("projects")
    suite.runtimes["projects"] = lonely  # as a test leaves it that fails in the middle
    stub = suite.person().stub(ProjectServiceStub)
    await stub.ListProjects(ListProjectsRequest())
    await suite.tidy()
    assert suite.runtimes["projects"] is usual
    async with grpc.aio.insecure_channel(f"127.0.0.1:{lonely.plaintext_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ProjectServiceStub(channel).ListProjects(ListProjectsRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.UsageError, match="closed"):
        await stub.ListProjects(ListProjectsRequest())
    await suite.person().stub(ProjectServiceStub).ListProjects(ListProjectsRequest())


async def test_a_server_is_stopped_though_another_cannot_be(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    well, broken = await suite.launch("projects"), await suite.launch("projects")

    async def leave() -> None:
        raise OSError("it does not stop")

    with monkeypatch.context() as patch:
        patch.setattr(broken.health, "leave", leave)
        with pytest.raises(OSError, match="does not stop"):
            await suite.tidy()
    assert well.stopped
    broken.stopped = False
    await broken.stop()


async def test_a_shared_service_that_a_test_stopped_is_started_anew_and_known_to_its_neighbours(suite: Suite) -> None:
    await (await Stages.open(suite)).create(configuration())  # experiments asks projects
    before = suite.runtimes["projects"]
    await before.stop()
    await suite.tidy()
    stages = await Stages.open(suite)
    assert suite.runtimes["projects"] is not before
    await stages.create(configuration())


async def test_calls_meanwhile_go_to_the_server_that_stands_in(suite: Suite) -> None:
    await suite.start("projects")
    usual = suite.runtimes["projects"]
    with suppress(ZeroDivisionError):  # as a test that fails meanwhile
        async with suite.instead("projects") as other:
            assert suite.runtimes["projects"] is other is not usual
            raise ZeroDivisionError
    assert suite.runtimes["projects"] is usual
