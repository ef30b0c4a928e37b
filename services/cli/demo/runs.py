"""Runs analyser configurations over the corpus, as an experimenter does: reserve quota, analyse, commit, record.

What is recorded for an item is what the analyser said about it; the server compares it with the label.
"""

import asyncio
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from services.cli.clients import Client
from services.cli.demo.corpora import Item
from services.worker import analysers, configurations
from services.worker.findings import EngineFailed, SourceRefused
from triptych.experiments.v1 import experiment_service_pb2
from triptych.experiments.v1.experiment_pb2 import Arm, ItemResult
from triptych.experiments.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from triptych.providers.v1 import quota_service_pb2
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub

AT_ONCE = 8
BATCH = 100


@dataclass(frozen=True)
class Run:
    """One experiment's run: who runs it and with whose quota."""

    client: Client
    experiment_id: str
    provider_id: str
    items: Sequence[Item]

    async def arm(self, arm: "Arm.ValueType", document: dict[str, Any]) -> int:
        """Run one configuration over all items and record what it said; give the number of results."""
        configuration = configurations.read(document)
        slots = asyncio.Semaphore(AT_ONCE)
        results = await asyncio.gather(*(self._item(slots, arm, configuration, item) for item in self.items))
        experiments = self.client.stub(ExperimentServiceStub)
        for start in range(0, len(results), BATCH):
            batch = results[start : start + BATCH]
            await experiments.RecordResults(
                experiment_service_pb2.RecordResultsRequest(experiment_id=self.experiment_id, results=batch)
            )
        return len(results)

    async def _item(
        self, slots: asyncio.Semaphore, arm: "Arm.ValueType", configuration: configurations.Configuration, item: Item
    ) -> ItemResult:
        quotas = self.client.stub(QuotaServiceStub)
        tokens = _tokens(item.source)
        async with slots:
            held = await quotas.ReserveQuota(
                quota_service_pb2.ReserveQuotaRequest(
                    provider_id=self.provider_id, operation="evaluation", estimated_input_tokens=tokens
                )
            )
            result = ItemResult(item_id=item.id, arm=arm)
            try:
                analysis = await asyncio.to_thread(analysers.analyse, item.source, configuration)
            except (EngineFailed, SourceRefused) as error:
                result.error = str(error)[:1000]
            else:
                result.answer = analysis.verdict
                result.latency_ms = analysis.duration_ms
                rules = [f"{finding.engine}:{finding.rule}:{finding.line}" for finding in analysis.findings]
                result.details["findings"] = rules
            settled = await quotas.CommitReservation(
                quota_service_pb2.CommitReservationRequest(
                    reservation_id=held.reservation.id, input_tokens=tokens, output_tokens=0
                )
            )
        result.cost_usd = settled.reservation.cost_usd
        return result


def _tokens(source: str) -> int:
    """How many tokens a program has, as Python counts them."""
    return sum(1 for _ in tokenize.generate_tokens(StringIO(source).readline))
