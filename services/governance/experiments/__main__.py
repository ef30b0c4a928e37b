"""Wiring of the experiments service."""

from typing import cast

from services.governance.experiments import (
    approvals,
    blacklist,
    datasets,
    evaluations,
    experiments,
    overrides,
    promotions,
)
from services.governance.experiments.api.blacklist import Blacklist
from services.governance.experiments.api.comparisons import Comparisons
from services.governance.experiments.api.datasets import Datasets
from services.governance.experiments.api.evaluations import Evaluations
from services.governance.experiments.api.experiments import Experiments
from services.governance.experiments.api.promotions import Promotions
from services.governance.experiments.completions import Completions
from services.governance.experiments.judgements import Judges
from services.governance.experiments.peers import Peers
from services.governance.experiments.settings import ExperimentsSettings
from services.kit.server import Runtime, serve
from triptych.experiments.v1 import (
    blacklist_service_pb2_grpc as blacklist_grpc,
    comparison_service_pb2_grpc as comparison_grpc,
    dataset_service_pb2_grpc as dataset_grpc,
    evaluation_service_pb2_grpc as evaluation_grpc,
    experiment_service_pb2_grpc as experiment_grpc,
    promotion_service_pb2_grpc as promotion_grpc,
)

SETTINGS = ExperimentsSettings
API = "triptych.experiments.v1"
CONSTRAINTS = (
    datasets.CONSTRAINTS
    | experiments.CONSTRAINTS
    | evaluations.CONSTRAINTS
    | overrides.CONSTRAINTS
    | promotions.CONSTRAINTS
    | approvals.CONSTRAINTS
    | blacklist.CONSTRAINTS
)


async def wire(runtime: Runtime) -> None:
    """Open what the service needs, add its servicers, start what runs in the background."""
    settings = cast("ExperimentsSettings", runtime.settings)
    await runtime.open(constraints=CONSTRAINTS)
    db, pages, peers = runtime.db, runtime.pages, Peers(runtime.neighbours)
    judges = Judges(settings.statistics_seconds)
    completions = Completions(db=db, peers=peers, seconds=settings.reconcile_seconds, crash_after=settings.crash_after)
    runtime.add(
        f"{API}.DatasetService", dataset_grpc.add_DatasetServiceServicer_to_server, Datasets(db=db, pages=pages)
    )
    runtime.add(
        f"{API}.ExperimentService",
        experiment_grpc.add_ExperimentServiceServicer_to_server,
        Experiments(db=db, pages=pages, peers=peers),
    )
    runtime.add(
        f"{API}.EvaluationService",
        evaluation_grpc.add_EvaluationServiceServicer_to_server,
        Evaluations(db=db, pages=pages, peers=peers, judges=judges),
    )
    runtime.add(
        f"{API}.PromotionService",
        promotion_grpc.add_PromotionServiceServicer_to_server,
        Promotions(db=db, pages=pages, peers=peers, completions=completions, settings=settings),
    )
    runtime.add(
        f"{API}.BlacklistService",
        blacklist_grpc.add_BlacklistServiceServicer_to_server,
        Blacklist(db=db, pages=pages, completions=completions),
    )
    runtime.add(
        f"{API}.ComparisonService",
        comparison_grpc.add_ComparisonServiceServicer_to_server,
        Comparisons(db=db, pages=pages),
    )
    runtime.background(completions.run())
    runtime.on_close(completions.close)


if __name__ == "__main__":
    serve(SETTINGS, wire)
