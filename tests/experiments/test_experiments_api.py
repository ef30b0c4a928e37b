"""ExperimentService over the wire, with the real projects service."""

import asyncio
import uuid

import pytest

from services.kit import faults
from tests.experiments.stages import N, Stages, configuration, said
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1 import experiment_pb2, experiment_service_pb2 as pb
from triptych.experiments.v1.experiment_pb2 import ARM_PRODUCTION, Experiment, ItemResult
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.projects.v1 import project_service_pb2, version_service_pb2
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub


@pytest.fixture
async def stages(suite: Suite) -> Stages:
    return await Stages.open(suite)


async def test_an_experiment_is_created_with_a_version_of_its_own(stages: Stages) -> None:
    experiment = await stages.create(configuration(model="m", depth=2))
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_CREATED
    assert experiment.created_by == stages.author.id
    request = version_service_pb2.GetVersionRequest(version_id=experiment.version_id)
    version = (await stages.author.stub(VersionServiceStub).GetVersion(request)).version
    assert version.configuration_hash == experiment.configuration_hash
    assert version.configuration == experiment.configuration
    stub = stages.author.stub(ExperimentServiceStub)
    assert (await stub.GetExperiment(pb.GetExperimentRequest(experiment_id=experiment.id))).experiment == experiment


async def test_the_same_request_id_makes_one_experiment_and_one_version(stages: Stages) -> None:
    request = stages.request()
    request.request_id = str(uuid.uuid4())
    stub = stages.author.stub(ExperimentServiceStub)
    answers = await asyncio.gather(*(stub.CreateExperiment(request) for _ in range(5)))
    assert len({answer.experiment.id for answer in answers}) == 1
    listed = version_service_pb2.ListVersionsRequest(project_id=stages.project_id)
    assert len((await stages.author.stub(VersionServiceStub).ListVersions(listed)).versions) == 1


async def test_what_an_experiment_needs_must_be_there(stages: Stages) -> None:
    for field, reason in (("dataset_id", "DATASET_NOT_FOUND"), ("project_id", "PROJECT_NOT_FOUND")):
        request = stages.request()
        setattr(request.experiment, field, str(uuid.uuid4()))
        with pytest.raises(faults.NotFound) as caught:
            await stages.author.stub(ExperimentServiceStub).CreateExperiment(request)
        assert caught.value.reason == reason
    with pytest.raises(faults.InvalidArgument) as invalid:
        await stages.create(configuration(limit=2.0**60))
    assert invalid.value.reason == "CONFIGURATION_INVALID"


async def test_a_refused_experiment_leaves_no_version(stages: Stages) -> None:
    with pytest.raises(faults.NotFound):
        await stages.create(dataset_id=str(uuid.uuid4()))
    listed = version_service_pb2.ListVersionsRequest(project_id=stages.project_id)
    assert not (await stages.author.stub(VersionServiceStub).ListVersions(listed)).versions


async def test_an_archived_project_gets_no_experiment(stages: Stages) -> None:
    request = project_service_pb2.ArchiveProjectRequest(project_id=stages.project_id)
    await stages.author.stub(ProjectServiceStub).ArchiveProject(request)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.create()
    assert caught.value.reason == "PROJECT_ARCHIVED"


async def test_experiments_are_listed_newest_first_by_project_and_state(stages: Stages) -> None:
    created = [await stages.create() for _ in range(3)]
    running = await stages.start()
    stub = stages.author.stub(ExperimentServiceStub)
    page = await stub.ListExperiments(pb.ListExperimentsRequest(project_id=stages.project_id, page_size=2))
    assert [experiment.id for experiment in page.experiments] == [running.id, created[2].id]
    request = pb.ListExperimentsRequest(project_id=stages.project_id, page_size=2, page_token=page.next_page_token)
    rest = await stub.ListExperiments(request)
    assert [experiment.id for experiment in rest.experiments] == [created[1].id, created[0].id]
    request = pb.ListExperimentsRequest(state=experiment_pb2.EXPERIMENT_STATE_RUNNING)
    assert [experiment.id for experiment in (await stub.ListExperiments(request)).experiments] == [running.id]


async def test_it_starts_once_and_without_production_there_is_nothing_to_pin(stages: Stages) -> None:
    experiment = await stages.start()
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_RUNNING
    assert not experiment.production_version_id
    assert experiment.HasField("start_time")
    request = pb.StartExperimentRequest(experiment_id=experiment.id)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.author.stub(ExperimentServiceStub).StartExperiment(request)
    assert caught.value.reason == "EXPERIMENT_STATE_CONFLICT"
    assert caught.value.facts == {"state": "running", "needed": "created"}


async def test_a_stale_etag_is_refused(stages: Stages) -> None:
    experiment = await stages.start()
    await stages.record(experiment, said(1, 1))
    request = pb.CancelExperimentRequest(experiment_id=experiment.id, reason="no", etag=experiment.etag)
    with pytest.raises(faults.Aborted) as caught:
        await stages.author.stub(ExperimentServiceStub).CancelExperiment(request)
    assert caught.value.reason == "ETAG_MISMATCH"


async def test_a_cancelled_experiment_says_why_and_takes_no_results(stages: Stages) -> None:
    experiment = await stages.start()
    request = pb.CancelExperimentRequest(experiment_id=experiment.id, reason="wrong dataset")
    cancelled = (await stages.author.stub(ExperimentServiceStub).CancelExperiment(request)).experiment
    assert cancelled.state == experiment_pb2.EXPERIMENT_STATE_CANCELLED
    assert cancelled.state_reason == "wrong dataset"
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.record(experiment, said(1, 1))
    assert caught.value.reason == "EXPERIMENT_STATE_CONFLICT"


async def test_the_server_says_what_is_right(stages: Stages) -> None:
    experiment = await stages.start()
    silent = ItemResult(item_id="p002", arm=experiment_pb2.ARM_CANDIDATE, error="timeout", correct=True)
    silent.details.update({"tries": 3})
    answer = await stages.record(experiment, [*said(1, 2), silent])
    assert (answer.recorded_count, answer.experiment.result_count) == (3, 3)
    request = pb.ListResultsRequest(experiment_id=experiment.id)
    stub = stages.author.stub(ExperimentServiceStub)
    results = (await stub.ListResults(request)).results
    assert [result.correct for result in results] == [True, False, False]
    assert results[0].cost_usd == "0.01"
    assert results[2].details["tries"] == 3
    request.only_incorrect = True
    assert [result.item_id for result in (await stub.ListResults(request)).results] == ["p001", "p002"]


async def test_the_first_result_stands(stages: Stages) -> None:
    experiment = await stages.start()
    assert (await stages.record(experiment, said(2, 3))).recorded_count == 3
    assert (await stages.record(experiment, said(2, 4, latency_ms=7.0))).recorded_count == 1
    with pytest.raises(faults.AlreadyExists) as caught:
        await stages.record(experiment, said(3, 5))
    assert caught.value.reason == "RESULT_CONFLICT"
    assert caught.value.facts == {"item_id": "p002", "arm": "candidate"}
    request = pb.ListResultsRequest(experiment_id=experiment.id)
    results = (await stages.author.stub(ExperimentServiceStub).ListResults(request)).results
    assert len(results) == 4
    assert {result.latency_ms for result in results[:3]} == {100.0}


async def test_many_writers_count_each_result_once(stages: Stages) -> None:
    experiment = await stages.start()
    answers = await asyncio.gather(*(stages.record(experiment, said(N)) for _ in range(4)))
    assert sum(answer.recorded_count for answer in answers) == N
    assert max(answer.experiment.result_count for answer in answers) == N


async def test_a_result_that_makes_no_sense_is_refused_with_its_place(stages: Stages) -> None:
    experiment = await stages.start()
    large = ItemResult(item_id="p001", arm=experiment_pb2.ARM_CANDIDATE, answer="yes")
    large.details.update({"text": "x" * 20_000})
    nothing = ItemResult(item_id="p001", arm=experiment_pb2.ARM_CANDIDATE)
    for result, field in ((large, "details"), (nothing, "error"), (said(1, 1, ARM_PRODUCTION)[0], "arm")):
        with pytest.raises(faults.InvalidArgument) as caught:
            await stages.record(experiment, [said(1, 1)[0], result])
        assert list(caught.value.violations) == [f"results[1].{field}"]
    with pytest.raises(faults.InvalidArgument) as unknown:
        await stages.record(experiment, [ItemResult(item_id="p999", arm=experiment_pb2.ARM_CANDIDATE, answer="yes")])
    assert (unknown.value.reason, unknown.value.facts) == ("ITEM_UNKNOWN", {"item_id": "p999"})


async def test_results_are_paged_by_item_and_arm(stages: Stages) -> None:
    await stages.approve(await stages.ask())
    experiment = await stages.start()
    await stages.record(experiment, said(3, 3))
    await stages.record(experiment, said(3, 3, ARM_PRODUCTION))
    stub = stages.author.stub(ExperimentServiceStub)
    first = await stub.ListResults(pb.ListResultsRequest(experiment_id=experiment.id, page_size=4))
    request = pb.ListResultsRequest(experiment_id=experiment.id, page_size=4, page_token=first.next_page_token)
    second = await stub.ListResults(request)
    found = [(result.item_id, result.arm) for result in [*first.results, *second.results]]
    assert found == [(f"p00{n}", arm) for n in range(3) for arm in (1, 2)]


async def test_an_experiment_without_results_is_not_complete(stages: Stages) -> None:
    experiment = await stages.start()
    request = pb.CompleteExperimentRequest(experiment_id=experiment.id)
    stub = stages.author.stub(ExperimentServiceStub)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stub.CompleteExperiment(request)
    assert caught.value.reason == "EXPERIMENT_WITHOUT_RESULTS"
    await stages.record(experiment, said(1, 1))
    completed = (await stub.CompleteExperiment(request)).experiment
    assert completed.state == experiment_pb2.EXPERIMENT_STATE_COMPLETED
    with pytest.raises(faults.FailedPrecondition) as again:
        await stub.CompleteExperiment(request)
    assert again.value.reason == "EXPERIMENT_STATE_CONFLICT"


async def test_a_candidate_that_answered_nothing_failed(stages: Stages) -> None:
    experiment = await stages.start()
    results = [ItemResult(item_id="p000", arm=experiment_pb2.ARM_CANDIDATE, error="no key")]
    await stages.record(experiment, results)
    request = pb.CompleteExperimentRequest(experiment_id=experiment.id)
    failed = (await stages.author.stub(ExperimentServiceStub).CompleteExperiment(request)).experiment
    assert failed.state == experiment_pb2.EXPERIMENT_STATE_FAILED
    assert failed.state_reason == "the candidate answered none of 1 items"


async def test_another_tenants_experiment_looks_like_none_and_the_zone_is_for_admins(
    stages: Stages, suite: Suite
) -> None:
    experiment = await stages.create()
    stranger = suite.person(Role.ROLE_ADMIN).stub(ExperimentServiceStub)
    user = stages.author.colleague(Role.ROLE_USER).stub(ExperimentServiceStub)
    for experiment_id in (experiment.id, str(uuid.uuid4())):
        for call, request in (
            ("GetExperiment", pb.GetExperimentRequest(experiment_id=experiment_id)),
            ("StartExperiment", pb.StartExperimentRequest(experiment_id=experiment_id)),
            ("ListResults", pb.ListResultsRequest(experiment_id=experiment_id)),
            ("CancelExperiment", pb.CancelExperimentRequest(experiment_id=experiment_id, reason="r")),
            ("RecordResults", pb.RecordResultsRequest(experiment_id=experiment_id, results=said(1, 1))),
        ):
            with pytest.raises(faults.NotFound) as caught:
                await getattr(stranger, call)(request)
            assert caught.value.reason == "EXPERIMENT_NOT_FOUND"
            with pytest.raises(faults.PermissionDenied):
                await getattr(user, call)(request)


async def test_quarantine_may_read_an_experiment_by_its_certificate(stages: Stages, suite: Suite) -> None:
    experiment: Experiment = await stages.create()
    quarantine = (await suite.service("quarantine", stages.author.tenant_id)).stub(ExperimentServiceStub)
    request = pb.GetExperimentRequest(experiment_id=experiment.id)
    assert (await quarantine.GetExperiment(request)).experiment.id == experiment.id
