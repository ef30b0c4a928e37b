"""PolicyService over the wire."""

import asyncio
import hashlib
import os
import signal
import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.kit import faults
from services.projects.sandbox.supervisors import Sandbox
from tests.patience import until
from tests.projects import hostile
from tests.projects.builders import archive, make_project, struct
from tests.refusals import reason
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import policy_service_pb2 as pb, project_service_pb2
from triptych.projects.v1.policy_pb2 import Policy, PolicyOutcome
from triptych.projects.v1.policy_service_pb2_grpc import PolicyServiceStub
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub

REGO = """package gate

decision := {"allow": count(denials) == 0, "deny": denials}

denials contains {"code": "LOW", "msg": "accuracy is low"} if input.accuracy < LIMIT
"""


def _rego(limit: float) -> str:
    return REGO.replace("LIMIT", str(limit))


async def _create(admin: Person, name: str, rego: str) -> Policy:
    request = pb.CreatePolicyRequest(policy=Policy(name=name, rego=rego))
    return (await admin.stub(PolicyServiceStub).CreatePolicy(request)).policy


async def _attach(admin: Person, project: Project, policy: Policy) -> None:
    request = pb.AttachPolicyRequest(project_id=project.id, policy_id=policy.id)
    await admin.stub(PolicyServiceStub).AttachPolicy(request)


async def _evaluate(admin: Person, project: Project, given: dict[str, Any]) -> pb.EvaluatePoliciesResponse:
    request = pb.EvaluatePoliciesRequest(project_id=project.id, input=struct(given))
    return await admin.stub(PolicyServiceStub).EvaluatePolicies(request)


async def _plant(admin: Person, suite: Suite, project: Project, name: str, rego: str) -> None:
    """Attach a policy that the door would have refused."""
    policy = await _create(admin, name, _rego(0.5))
    async with suite.runtimes["projects"].db.begin(tenant=admin.tenant_id) as tx:
        await tx.connection.execute("UPDATE policies SET rego = $2 WHERE id = $1", policy.id, rego)
    await _attach(admin, project, policy)


async def test_a_policy_is_stored_with_its_digest(admin: Person) -> None:
    policies = admin.stub(PolicyServiceStub)
    request = pb.CreatePolicyRequest(policy=Policy(name="accuracy", rego=_rego(0.9)), request_id=str(uuid.uuid4()))
    made = (await policies.CreatePolicy(request)).policy
    assert (made.revision, made.active) == (1, True)
    assert made.digest == hashlib.sha256(_rego(0.9).encode()).hexdigest()
    assert (await policies.CreatePolicy(request)).policy == made
    assert (await policies.GetPolicy(pb.GetPolicyRequest(policy_id=made.id))).policy == made
    assert await reason(_create(admin, "accuracy", _rego(0.9))) == "POLICY_NAME_TAKEN"


async def test_a_source_that_cannot_work_is_not_stored(admin: Person) -> None:
    assert await reason(_create(admin, "broken", "package gate\n\ndecision := ")) == "POLICY_INVALID"
    assert await reason(_create(admin, "none", "package gate\n\nother := 1\n")) == "POLICY_INVALID"
    rego = "package gate\n\ndecision := time.now_ns()\n"
    assert await reason(_create(admin, "clock", rego)) == "POLICY_FORBIDDEN_BUILTIN"
    assert await reason(_create(admin, "large", "#" * 65_537)) == "REQUEST_INVALID"
    assert not (await admin.stub(PolicyServiceStub).ListPolicies(pb.ListPoliciesRequest())).policies


async def test_another_source_is_another_revision(admin: Person, suite: Suite) -> None:
    policies = admin.stub(PolicyServiceStub)
    made = await _create(admin, "accuracy", _rego(0.9))
    change = Policy(id=made.id, rego=_rego(0.8), etag=made.etag)
    changed = (await policies.UpdatePolicy(pb.UpdatePolicyRequest(policy=change))).policy
    assert (changed.revision, changed.digest != made.digest) == (2, True)
    described = Policy(id=made.id, description="as before")
    assert (await policies.UpdatePolicy(pb.UpdatePolicyRequest(policy=described))).policy.revision == 2
    assert await reason(policies.UpdatePolicy(pb.UpdatePolicyRequest(policy=change))) == "ETAG_MISMATCH"
    async with suite.runtimes["projects"].db.begin(tenant=admin.tenant_id) as tx:
        sql = "SELECT source_revision, rego FROM policy_revisions WHERE policy_id = $1 ORDER BY 1"
        kept = [tuple(row) for row in await tx.connection.fetch(sql, made.id)]
    assert kept == [(1, _rego(0.9)), (2, _rego(0.8))]


async def test_an_update_passes_the_same_door(admin: Person) -> None:
    policies = admin.stub(PolicyServiceStub)
    made = await _create(admin, "accuracy", _rego(0.9))

    async def update(rego: str, *paths: str) -> str:
        request = pb.UpdatePolicyRequest(policy=Policy(id=made.id, rego=rego), update_mask=FieldMask(paths=paths))
        return await reason(policies.UpdatePolicy(request))

    assert await update("package gate\n\ndecision := ") == "POLICY_INVALID"
    clock = "package gate\n\ndecision := time.now_ns()\n"
    assert await update(clock, "rego") == "POLICY_FORBIDDEN_BUILTIN"
    assert await update(clock, "*") == "POLICY_FORBIDDEN_BUILTIN"
    assert await update("", "rego") == "REQUEST_INVALID"
    assert await update("#" * 65_537, "rego") == "REQUEST_INVALID"


async def test_policies_are_listed_in_order_of_name(admin: Person) -> None:
    policies, project = admin.stub(PolicyServiceStub), await make_project(admin)
    for name in ("cost", "accuracy", "latency"):
        made = await _create(admin, name, _rego(0.9))
    await _attach(admin, project, made)
    first = await policies.ListPolicies(pb.ListPoliciesRequest(page_size=2))
    second = await policies.ListPolicies(pb.ListPoliciesRequest(page_size=2, page_token=first.next_page_token))
    assert [policy.name for policy in (*first.policies, *second.policies)] == ["accuracy", "cost", "latency"]
    mine = await policies.ListPolicies(pb.ListPoliciesRequest(project_id=project.id))
    assert [policy.name for policy in mine.policies] == ["latency"]


async def test_active_attached_policies_decide_in_order_of_name(admin: Person) -> None:
    policies, project = admin.stub(PolicyServiceStub), await make_project(admin)
    assert not (await _evaluate(admin, project, {})).decisions
    strict, mild = await _create(admin, "strict", _rego(0.95)), await _create(admin, "mild", _rego(0.5))
    await _create(admin, "elsewhere", _rego(0.5))
    for policy in (strict, mild, strict):
        await _attach(admin, project, policy)
    answer = await _evaluate(admin, project, {"accuracy": 0.9})
    assert [(decision.policy_name, decision.outcome) for decision in answer.decisions] == [
        ("mild", PolicyOutcome.POLICY_OUTCOME_ALLOW),
        ("strict", PolicyOutcome.POLICY_OUTCOME_DENY),
    ]
    assert [denial.code for denial in answer.decisions[1].denials] == ["LOW"]
    assert (answer.decisions[1].digest, answer.decisions[1].duration_us > 0) == (strict.digest, True)
    assert (await _evaluate(admin, project, {"accuracy": 1})).bundle_digest == answer.bundle_digest
    off = pb.UpdatePolicyRequest(policy=Policy(id=strict.id), update_mask=FieldMask(paths=["active"]))
    await policies.UpdatePolicy(off)
    without = await _evaluate(admin, project, {"accuracy": 0.9})
    assert [decision.policy_name for decision in without.decisions] == ["mild"]
    assert without.bundle_digest != answer.bundle_digest
    for _ in range(2):
        await policies.DetachPolicy(pb.DetachPolicyRequest(project_id=project.id, policy_id=mild.id))
    assert not (await _evaluate(admin, project, {"accuracy": 0.9})).decisions


async def test_an_input_that_is_too_large_or_no_json_is_refused(admin: Person) -> None:
    project = await make_project(admin)
    assert await reason(_evaluate(admin, project, {"text": "x" * 256 * 1024})) == "REQUEST_INVALID"
    assert await reason(_evaluate(admin, project, {"n": float("nan")})) == "REQUEST_INVALID"


async def test_hostile_policies_are_outcomes_and_other_calls_go_on(admin: Person, suite: Suite) -> None:
    project = await make_project(admin)
    for name, (body, _) in hostile.POLICIES.items():
        await _plant(
            admin, suite, project, name.lower().replace(" ", "-").replace(".", "-"), f"package gate\n\n{body}\n"
        )
    evaluation = asyncio.create_task(_evaluate(admin, project, {"accuracy": 1}))
    projects, answered = admin.stub(ProjectServiceStub), 0
    while not evaluation.done():
        await projects.GetProject(project_service_pb2.GetProjectRequest(project_id=project.id))
        answered += 1
    decisions = (await evaluation).decisions
    assert answered > 1
    assert len(decisions) == len(hostile.POLICIES)
    assert not any(decision.outcome == PolicyOutcome.POLICY_OUTCOME_ALLOW for decision in decisions)
    assert all(decision.denials for decision in decisions)


async def test_without_a_sandbox_nothing_is_decided(admin: Person, suite: Suite) -> None:
    async with suite.instead("projects") as runtime:
        project = await make_project(admin)
        await _attach(admin, project, await _create(admin, "accuracy", _rego(0.9)))
        sandbox = next(close.__self__ for close in runtime._closers if isinstance(close.__self__, Sandbox))  # type: ignore[attr-defined]
        os.kill(sandbox.pid, signal.SIGSTOP)
        evaluation = asyncio.create_task(_evaluate(admin, project, {"accuracy": 1}))
        await until(lambda: bool(sandbox._waiting))
        os.kill(sandbox.pid, signal.SIGKILL)
        assert await reason(evaluation) == "POLICY_SANDBOX_UNAVAILABLE"


async def test_an_archived_project_keeps_its_policies(admin: Person) -> None:
    policies, project = admin.stub(PolicyServiceStub), await make_project(admin)
    policy = await _create(admin, "accuracy", _rego(0.9))
    await archive(admin, project)
    assert await reason(_attach(admin, project, policy)) == "PROJECT_ARCHIVED"
    request = pb.DetachPolicyRequest(project_id=project.id, policy_id=policy.id)
    assert await reason(policies.DetachPolicy(request)) == "PROJECT_ARCHIVED"


async def test_another_tenants_policies_look_like_none(admin: Person, suite: Suite) -> None:
    policy, project = await _create(admin, "accuracy", _rego(0.9)), await make_project(admin)
    stranger = suite.person(Role.ROLE_ADMIN)
    policies, own = stranger.stub(PolicyServiceStub), await make_project(stranger)
    assert await reason(policies.GetPolicy(pb.GetPolicyRequest(policy_id=policy.id))) == "POLICY_NOT_FOUND"
    change = pb.UpdatePolicyRequest(policy=Policy(id=policy.id, description="x"))
    assert await reason(policies.UpdatePolicy(change)) == "POLICY_NOT_FOUND"
    assert await reason(_attach(stranger, own, policy)) == "POLICY_NOT_FOUND"
    assert await reason(_attach(stranger, project, policy)) == "PROJECT_NOT_FOUND"
    assert await reason(_evaluate(stranger, project, {})) == "PROJECT_NOT_FOUND"
    assert (await _create(stranger, "accuracy", _rego(0.9))).id != policy.id


async def test_experiments_evaluates_and_a_user_does_not(admin: Person, suite: Suite) -> None:
    project = await make_project(admin)
    await _attach(admin, project, await _create(admin, "accuracy", _rego(0.9)))
    request = pb.EvaluatePoliciesRequest(project_id=project.id, input=struct({"accuracy": 1}))
    experiments = (await suite.service("experiments", admin.tenant_id)).stub(PolicyServiceStub)
    assert [d.outcome for d in (await experiments.EvaluatePolicies(request)).decisions] == [1]
    with pytest.raises(faults.PermissionDenied):
        await admin.colleague(Role.ROLE_USER).stub(PolicyServiceStub).EvaluatePolicies(request)
