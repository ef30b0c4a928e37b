"""Which policies are attached to which project, and what they say about an input."""

import asyncio
from typing import Any

import orjson
from google.protobuf.struct_pb2 import Struct
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert

from services.kit import canonical, outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import RequestInvalid
from services.projects import configurations, decisions, policies, projects
from services.projects.policies import attached, table
from services.projects.sandbox.supervisors import Sandbox
from triptych.projects.v1 import policy_service_pb2 as pb
from triptych.projects.v1.policy_pb2 import PolicyDecision

LARGEST_INPUT = 256 * 1024
_attach = Statement(upsert(attached).values(**params("tenant_id project_id policy_id")).on_conflict_do_nothing())
_detach = Statement(
    delete(attached).where(attached.c.project_id == param("project_id"), attached.c.policy_id == param("policy_id"))
)
_active = Statement(
    select(table)
    .join(attached, attached.c.policy_id == table.c.id)
    .where(attached.c.project_id == param("project_id"), table.c.active)
    .order_by(table.c.name)
)


async def attach(tx: Transaction, request: pb.AttachPolicyRequest) -> pb.AttachPolicyResponse:
    """Attach a policy; one that is attached stays so."""
    await _alter(tx, request, _attach, tenant_id=tx.tenant_id)
    return pb.AttachPolicyResponse()


async def detach(tx: Transaction, request: pb.DetachPolicyRequest) -> pb.DetachPolicyResponse:
    """Detach a policy; one that is not attached stays so."""
    await _alter(tx, request, _detach)
    return pb.DetachPolicyResponse()


async def active(tx: Transaction, project_id: str) -> list[Row]:
    """Give the active policies of a project in order of name."""
    await projects.find(tx, project_id)
    return await tx.all(_active, project_id=project_id)


async def evaluate(sandbox: Sandbox, rows: list[Row], given: dict[str, Any]) -> pb.EvaluatePoliciesResponse:
    """Ask each policy in the sandbox; outside of any transaction."""
    found = await asyncio.gather(*(_decide(sandbox, row, given) for row in rows))
    names = [[row["name"], row["digest"]] for row in rows]
    bundle = canonical.digest("triptych.policies.v1", names).hex()
    return pb.EvaluatePoliciesResponse(decisions=found, bundle_digest=bundle)


def read_input(struct: Struct) -> dict[str, Any]:
    """Give what the policies see; refuse what has no one meaning in JSON, and what is too large."""
    try:
        given: dict[str, Any] = canonical.clean(configurations.values(struct))
    except canonical.NotCanonical as error:
        path = error.path.replace("$", "input", 1)
        raise RequestInvalid(f"{path}: {error.problem}", violations={path: error.problem}, fields=path) from None
    if len(orjson.dumps(given)) > LARGEST_INPUT:
        problem = "must be at most 256 KiB as JSON"
        raise RequestInvalid(f"input: {problem}", violations={"input": problem}, fields="input")
    return given


async def _decide(sandbox: Sandbox, row: Row, given: dict[str, Any]) -> PolicyDecision:
    answer = await sandbox.evaluate(row["rego"], given)
    outcome, denials = decisions.judge(answer)
    return PolicyDecision(
        policy_id=str(row["id"]),
        policy_name=row["name"],
        revision=row["source_revision"],
        digest=row["digest"],
        outcome=outcome,
        denials=denials,
        duration_us=answer.microseconds,
    )


async def _alter(
    tx: Transaction,
    request: pb.AttachPolicyRequest | pb.DetachPolicyRequest,
    statement: Statement,
    **values: Any,
) -> None:
    project = await projects.lock(tx, request.project_id)
    policy = await policies.find(tx, request.policy_id)
    await tx.run(statement, project_id=project["id"], policy_id=policy["id"], **values)
    details = {"policy_id": str(policy["id"]), "policy_name": policy["name"]}
    await outbox.record(tx, f"project:{project['id']}", details)
