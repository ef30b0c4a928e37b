"""The way back from quarantine, with the real quarantine and projects services."""

import uuid
from contextlib import suppress

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from services.kit import faults
from tests.experiments.stages import Stages, configuration
from tests.patience import eventually
from tests.suite import Suite
from triptych.experiments.v1 import blacklist_service_pb2, experiment_pb2, experiment_service_pb2
from triptych.experiments.v1.blacklist_service_pb2_grpc import BlacklistServiceStub
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.quarantine.v1 import quarantine_pb2, quarantine_service_pb2 as pb, reevaluation_service_pb2
from triptych.quarantine.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from triptych.quarantine.v1.reevaluation_pb2 import Reevaluation
from triptych.quarantine.v1.reevaluation_service_pb2_grpc import ReevaluationServiceStub


@pytest.fixture
async def stages(suite: Suite) -> Stages:
    await suite.start("quarantine")
    return await Stages.open(suite)


async def seal(stages: Stages, experiment: experiment_pb2.Experiment) -> str:
    """Seal an experiment's version and wait until its configuration is blocked; give the record."""
    request = pb.RequestQuarantineRequest(
        version_id=experiment.version_id,
        experiment_id=experiment.id,
        reason=quarantine_pb2.QUARANTINE_REASON_REGRESSION,
        explanation="it missed three weaknesses",
        evidence=configuration(missed=3),
        cool_down=Duration(),
    )
    asked = (await stages.author.stub(QuarantineServiceStub).RequestQuarantine(request)).request
    approval = pb.ApproveQuarantineRequest(quarantine_request_id=asked.id, reason="I saw it too")
    await stages.reviewer.stub(QuarantineServiceStub).ApproveQuarantine(approval)
    get = blacklist_service_pb2.GetBlacklistEntryRequest(configuration_hash=experiment.configuration_hash)

    async def blocked() -> str:
        with suppress(faults.NotFound):
            return (await stages.author.stub(BlacklistServiceStub).GetBlacklistEntry(get)).entry.quarantine_record_id
        return ""

    return await eventually(blocked)


async def ask(stages: Stages, record_id: str) -> Reevaluation:
    request = reevaluation_service_pb2.RequestReevaluationRequest(
        record_id=record_id, reason="the tokenizer was repaired", evidence=configuration(commit="4f2a91")
    )
    return (await stages.author.stub(ReevaluationServiceStub).RequestReevaluation(request)).reevaluation


async def refused(stages: Stages, given: Struct, reevaluation_id: str) -> str:
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.create(given, reevaluation_id=reevaluation_id)
    return caught.value.reason


async def test_an_approved_reevaluation_lets_its_configuration_in_once(stages: Stages) -> None:
    given = configuration()
    sealed = await stages.create(given)
    reevaluation = await ask(stages, await seal(stages, sealed))
    with pytest.raises(faults.FailedPrecondition) as caught:
        await stages.create(given)
    assert caught.value.reason == "CONFIGURATION_BLACKLISTED"
    assert await refused(stages, given, reevaluation.id) == "REEVALUATION_NOT_APPROVED"
    assert await refused(stages, given, str(uuid.uuid4())) == "REEVALUATION_NOT_APPROVED"
    approval = reevaluation_service_pb2.ApproveReevaluationRequest(reevaluation_id=reevaluation.id, reason="agreed")
    await stages.reviewer.stub(ReevaluationServiceStub).ApproveReevaluation(approval)
    assert await refused(stages, configuration(), reevaluation.id) == "REEVALUATION_NOT_APPROVED"
    first = await stages.create(given, reevaluation_id=reevaluation.id)
    assert first.configuration_hash == sealed.configuration_hash
    assert first.version_id != sealed.version_id
    cancel = experiment_service_pb2.CancelExperimentRequest(experiment_id=first.id, reason="wrong dataset")
    await stages.author.stub(ExperimentServiceStub).CancelExperiment(cancel)
    again = await stages.start(given, reevaluation_id=reevaluation.id)
    assert again.state == experiment_pb2.EXPERIMENT_STATE_RUNNING
    assert await refused(stages, given, reevaluation.id) == "REEVALUATION_NOT_APPROVED"
