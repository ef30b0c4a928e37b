"""The life of one change in ten steps, on real input. Each step is real calls; each number was computed in this run."""

from pathlib import Path
from typing import Any

from services.cli.demo import arrivals, fall, proof, trials, work
from services.cli.demo.narrator import Narrator
from services.cli.demo.stage import Stage


class Life:
    """The steps in order."""

    def __init__(self, narrator: Narrator, summary: dict[str, Any], folder: Path) -> None:
        self.stage = Stage(narrator, summary, folder)

    async def run(self) -> None:
        """Live it."""
        stage = self.stage
        try:
            await arrivals.people_arrive(stage)
            await arrivals.a_key_is_sealed(stage)
            await arrivals.a_project_begins(stage)
            experiment = await trials.a_candidate_is_tried(stage)
            evaluation = await trials.it_is_judged(stage, experiment)
            await trials.two_people_let_it_in(stage, evaluation)
            await work.production_works(stage)
            record = await fall.production_regresses(stage)
            await fall.it_is_looked_at_again(stage, record)
            await trials.going_back_is_one_call(stage)
            await proof.the_log_proves_it(stage)
        finally:
            await stage.town.leave()
