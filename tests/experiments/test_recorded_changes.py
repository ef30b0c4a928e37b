"""What the audit events of promotions say of the row that changed."""

import json
from typing import Any

import pytest

from tests.experiments.stages import N, Stages
from tests.suite import Suite, superuser_of
from triptych.experiments.v1 import promotion_service_pb2 as pb
from triptych.experiments.v1.promotion_service_pb2_grpc import PromotionServiceStub


@pytest.fixture
async def stages(suite: Suite) -> Stages:
    return await Stages.open(suite)


async def recorded(suite: Suite, promotion_id: str) -> dict[str, dict[str, Any]]:
    """Give the payloads of the events about a promotion, by action."""
    query = "SELECT action, payload FROM experiments.outbox WHERE entity = $1 ORDER BY event_id"
    async with superuser_of(suite.backends, suite.database) as superuser:
        rows = await superuser.fetch(query, f"promotion:{promotion_id}")
    return {row["action"].removeprefix("experiments.promotion."): json.loads(row["payload"]) for row in rows}


async def test_an_approved_promotion_tells_each_step(suite: Suite, stages: Stages) -> None:
    promotion = await stages.ask(await stages.evaluate(N))
    await stages.approve(promotion)
    told = await recorded(suite, promotion.id)
    assert (told["approve"]["state"], told["approve"]["subject_digest"]) == ("approved", promotion.subject_digest)
    assert told["approve"]["changes"] == {
        "state": {"old": "pending", "new": "approved"},
        "approver_id": {"old": None, "new": stages.reviewer.id},
    }
    assert told["complete"]["from_version_id"] == promotion.from_version_id
    changes = told["complete"]["changes"]
    assert changes["state"] == {"old": "approved", "new": "completed"}
    assert changes["promote_time"]["old"] is None


async def test_a_rejected_promotion_tells_why_and_by_whom(suite: Suite, stages: Stages) -> None:
    promotion = await stages.ask(await stages.evaluate(N))
    stub = stages.reviewer.stub(PromotionServiceStub)
    await stub.RejectPromotion(pb.RejectPromotionRequest(promotion_id=promotion.id, reason="not now"))
    told = (await recorded(suite, promotion.id))["reject"]
    assert told == {
        "reject_reason": "not now",
        "changes": {
            "state": {"old": "pending", "new": "rejected"},
            "reject_reason": {"old": "", "new": "not now"},
            "rejected_by": {"old": None, "new": stages.reviewer.id},
        },
    }
