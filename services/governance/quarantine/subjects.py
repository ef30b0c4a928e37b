"""Subjects: what somebody asks to seal, as projects and experiments know it. Asked before any transaction begins."""

from dataclasses import dataclass

from services.kit.clients import Neighbours
from services.kit.faults import RequestInvalid
from triptych.experiments.v1 import experiment_service_pb2, experiment_service_pb2_grpc
from triptych.projects.v1 import version_service_pb2, version_service_pb2_grpc
from triptych.projects.v1.version_pb2 import Version
from triptych.quarantine.v1 import quarantine_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Subjects:
    """Asks the neighbours as the caller, so that nobody seals what they cannot see."""

    neighbours: Neighbours

    async def version(self, request: pb.RequestQuarantineRequest) -> Version:
        """Give the version to seal. An experiment that is named as the proof exists and is of the same project."""
        versions = self.neighbours.stub("projects", version_service_pb2_grpc.VersionServiceStub)
        answer = await versions.GetVersion(version_service_pb2.GetVersionRequest(version_id=request.version_id))
        if request.experiment_id:
            await self._check_experiment(request.experiment_id, answer.version.project_id)
        return answer.version

    async def _check_experiment(self, experiment_id: str, project_id: str) -> None:
        experiments = self.neighbours.stub("experiments", experiment_service_pb2_grpc.ExperimentServiceStub)
        answer = await experiments.GetExperiment(
            experiment_service_pb2.GetExperimentRequest(experiment_id=experiment_id)
        )
        if answer.experiment.project_id != project_id:
            problem = "is of another project than the version; name one that showed this failure, or none"
            raise RequestInvalid(
                f"experiment_id: {problem}", violations={"experiment_id": problem}, fields="experiment_id"
            )
