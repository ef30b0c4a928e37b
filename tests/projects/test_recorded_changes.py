"""What the audit events of versions and policies say of the row that changed."""

import json
import uuid
from typing import Any

from tests.projects.builders import Zones, make_project
from tests.suite import Person, Suite, superuser_of
from triptych.projects.v1 import policy_service_pb2, version_service_pb2
from triptych.projects.v1.policy_pb2 import Policy
from triptych.projects.v1.policy_service_pb2_grpc import PolicyServiceStub
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub

REGO = 'package triptych.p\nimport rego.v1\ndecision := {{"allow": {}, "deny": []}}\n'


async def recorded(suite: Suite, entity: str) -> list[tuple[str, dict[str, Any]]]:
    """Give action and payload of the events about an entity, oldest first."""
    query = "SELECT action, payload FROM projects.outbox WHERE entity = $1 ORDER BY event_id"
    async with superuser_of(suite.backends, suite.database) as superuser:
        rows = await superuser.fetch(query, entity)
    return [(row["action"], json.loads(row["payload"])) for row in rows]


async def test_a_policy_tells_what_changed_and_what_it_is_now(suite: Suite, admin: Person) -> None:
    stub = admin.stub(PolicyServiceStub)
    given = Policy(name=f"p-{uuid.uuid4().hex[:12]}", rego=REGO.format("true"), description="first")
    policy = (await stub.CreatePolicy(policy_service_pb2.CreatePolicyRequest(policy=given))).policy
    policy.rego, policy.description = REGO.format("false"), "second"
    answer = (await stub.UpdatePolicy(policy_service_pb2.UpdatePolicyRequest(policy=policy))).policy
    (_, created), (action, told) = await recorded(suite, f"policy:{policy.id}")
    assert action == "projects.policy.update"
    assert told["changes"] == {
        "description": {"old": "first", "new": "second"},
        "rego": {"old": REGO.format("true"), "new": REGO.format("false")},
        "source_revision": {"old": 1, "new": 2},
        "digest": {"old": policy.digest, "new": answer.digest},
    }
    assert told.keys() - {"changes"} == created.keys() - {"update_time"}
    assert (told["rego"], told["digest"], told["revision"], told["etag"]) == (
        answer.rego,
        answer.digest,
        answer.revision,
        answer.etag,
    )


async def test_versions_tell_how_they_moved_and_whom_they_moved(suite: Suite, admin: Person) -> None:
    zones = Zones(admin, await make_project(admin, {"model": "small"}))
    stub = admin.stub(VersionServiceStub)
    request = version_service_pb2.GetProductionVersionRequest(project_id=zones.project.id)
    first = (await stub.GetProductionVersion(request)).version
    second = await zones.try_out({"model": "large"})
    await zones.promote(second)
    (action, told) = (await recorded(suite, f"version:{second.id}"))[-1]
    assert action == "projects.version.promote"
    assert told["superseded_version_id"] == first.id
    promote_time = told["changes"].pop("promote_time")
    assert (promote_time["old"], bool(promote_time["new"])) == (None, True)
    promoted_by = told["changes"].pop("promoted_by")
    assert (promoted_by["old"], promoted_by["new"]) == (None, told["approved_by"])
    assert told["changes"] == {
        "tag": {"old": "v1", "new": "v2"},
        "current": {"old": False, "new": True},
        "supersedes_id": {"old": None, "new": first.id},
    }
    (action, told) = (await recorded(suite, f"version:{first.id}"))[-1]
    assert (action, told["changes"]) == ("projects.version.supersede", {"current": {"old": True, "new": False}})
    roll_back = version_service_pb2.RollBackProductionRequest(project_id=zones.project.id, reason="too large")
    await stub.RollBackProduction(roll_back)
    (action, told) = (await recorded(suite, f"version:{first.id}"))[-1]
    assert (action, told["superseded_version_id"], told["reason"]) == (
        "projects.version.roll_back",
        second.id,
        "too large",
    )
    assert told["changes"]["current"] == {"old": False, "new": True}
    assert (await recorded(suite, f"version:{second.id}"))[-1][0] == "projects.version.supersede"
