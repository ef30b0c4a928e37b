"""Wiring of the quarantine service."""

from typing import cast

from services.governance.quarantine import attempts, decisions, quarantine_requests
from services.governance.quarantine.api.quarantines import Quarantines
from services.governance.quarantine.api.reevaluations import Reevaluations
from services.governance.quarantine.cool_downs import CoolDowns
from services.governance.quarantine.resumptions import Resumptions
from services.governance.quarantine.settings import QuarantineSettings
from services.governance.quarantine.steps import Steps
from services.governance.quarantine.subjects import Subjects
from services.kit.server import Runtime, serve
from triptych.quarantine.v1 import (
    quarantine_service_pb2_grpc as quarantine_grpc,
    reevaluation_service_pb2_grpc as reevaluation_grpc,
)

SETTINGS = QuarantineSettings


async def wire(runtime: Runtime) -> None:
    """Open what the service needs, add its servicers, and look for work that was interrupted."""
    settings = cast("QuarantineSettings", runtime.settings)
    await runtime.open(constraints=quarantine_requests.CONSTRAINTS | attempts.CONSTRAINTS | decisions.CONSTRAINTS)
    steps = Steps(db=runtime.db, neighbours=runtime.neighbours)
    resumptions = Resumptions(db=runtime.db, steps=steps, settings=settings)
    runtime.add(
        "triptych.quarantine.v1.QuarantineService",
        quarantine_grpc.add_QuarantineServiceServicer_to_server,
        Quarantines(
            db=runtime.db,
            pages=runtime.pages,
            subjects=Subjects(runtime.neighbours),
            cool_downs=CoolDowns(settings),
            resumptions=resumptions,
        ),
    )
    runtime.add(
        "triptych.quarantine.v1.ReevaluationService",
        reevaluation_grpc.add_ReevaluationServiceServicer_to_server,
        Reevaluations(db=runtime.db, pages=runtime.pages, neighbours=runtime.neighbours, resumptions=resumptions),
    )
    runtime.background(resumptions.run())


if __name__ == "__main__":
    serve(SETTINGS, wire)
