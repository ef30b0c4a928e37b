"""Policies: the row with its newest source, its earlier revisions, its wire form, its queries and its faults."""

import hashlib

import orjson
from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select, update

from services.kit import calls, outbox, updates
from services.kit.changes import Change
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import AlreadyExists, InvalidArgument, NotFound
from services.kit.paging import Page
from services.projects.sandbox import frames
from services.projects.sandbox.frames import Answer
from triptych.projects.v1 import policy_service_pb2 as pb
from triptych.projects.v1.policy_pb2 import Policy

UPDATABLE = ("description", "rego", "active")
LARGEST = 65536
"""Bytes of a source; the proto says the same, and an update is measured only after the sandbox has seen it."""

metadata = MetaData()
table = Table(
    "policies",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("rego", Text, nullable=False),
    Column("source_revision", Integer, nullable=False, server_default="1"),
    Column("digest", Text, nullable=False),
    Column("active", Boolean, nullable=False, server_default="true"),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
attached = Table(
    "project_policies",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("project_id", Uuid, primary_key=True),
    Column("policy_id", Uuid, primary_key=True),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_revisions = Table(
    "policy_revisions",
    metadata,
    Column("policy_id", Uuid, primary_key=True),
    Column("source_revision", Integer, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("rego", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_insert = Statement(insert(table).values(**params("tenant_id name description rego digest")).returning(*table.c))
_revise = Statement(insert(_revisions).values(**params("policy_id source_revision tenant_id rego digest created_by")))
_get = Statement(select(table).where(table.c.id == param("id")))
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
_update = Change(
    update(table)
    .where(table.c.id == param("policy_id"))
    .values(
        **params("description rego source_revision digest active"),
        revision=table.c.revision + 1,
        update_time=func.now(),
    )
    .returning(*table.c),
    kind="policy",
)


class PolicyNotFound(NotFound):
    """No such policy in the caller's tenant."""

    def __init__(self, policy_id: str) -> None:
        super().__init__("there is no such policy", policy_id=policy_id)


class PolicyNameTaken(AlreadyExists):
    """A policy of the tenant has this name."""


class PolicyInvalid(InvalidArgument):
    """The source does not parse, nests too deep, recurses, or defines no `decision`."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the policy cannot be stored: {problem}", problem=problem)


class PolicyForbiddenBuiltin(InvalidArgument):
    """The source calls a builtin that reaches outside or is not repeatable."""


CONSTRAINTS = {"policies_name": lambda: PolicyNameTaken("a policy of this name exists; choose another name")}


def brings_source(request: pb.UpdatePolicyRequest) -> bool:
    """Say whether an update carries a source that could be stored: the sandbox must see it first."""
    masked = not request.update_mask.paths or {"rego", "*"} & set(request.update_mask.paths)
    return bool(masked) and 0 < len(request.policy.rego.encode()) <= LARGEST


def admit(answer: Answer) -> None:
    """Raise unless the sandbox found nothing wrong with a source."""
    if answer.end != frames.DONE:
        raise PolicyInvalid("it takes too much time or memory to read; nest less")
    found = orjson.loads(answer.body)
    if builtin := found.get("builtin"):
        raise PolicyForbiddenBuiltin(found["problem"], builtin=builtin)
    if problem := found.get("problem") or found.get("raised"):
        raise PolicyInvalid(problem)


async def create(tx: Transaction, request: pb.CreatePolicyRequest) -> pb.CreatePolicyResponse:
    """Store a policy that was admitted; it is active from birth."""
    given = request.policy
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        name=given.name,
        description=given.description,
        rego=given.rego,
        digest=_digest(given.rego),
    )
    await _keep(tx, row)
    policy = _wire(row)
    await outbox.record(tx, f"policy:{policy.id}", policy)
    return pb.CreatePolicyResponse(policy=policy)


async def get(tx: Transaction, policy_id: str) -> Policy:
    """Give one policy in its newest revision."""
    return _wire(await find(tx, policy_id))


async def page(tx: Transaction, request: pb.ListPoliciesRequest, page: Page) -> pb.ListPoliciesResponse:
    """Give one page in order of name."""
    query = select(table).order_by(table.c.name).limit(page.limit)
    if request.project_id:
        mine = select(attached.c.policy_id).where(attached.c.project_id == request.project_id)
        query = query.where(table.c.id.in_(mine))
    if page.after is not None:
        query = query.where(table.c.name > page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["name"],))
    return pb.ListPoliciesResponse(policies=[_wire(row) for row in rows], next_page_token=token)


async def change(tx: Transaction, request: pb.UpdatePolicyRequest) -> pb.UpdatePolicyResponse:
    """Change what the mask names; another source is another revision."""
    row = await find(tx, updates.target(request, "policy"), locked=True)
    updates.check_etag(request.policy.etag, row["revision"])
    merged = updates.merge(_wire(row), request.policy, request.update_mask, UPDATABLE)
    renewed = merged.rego != row["rego"]
    merged.revision = row["source_revision"] + renewed
    merged.digest = _digest(merged.rego)
    merged.etag = updates.etag(row["revision"] + 1)
    merged.ClearField("update_time")  # it is that of the event
    changed = await _update.only(
        tx,
        merged,
        policy_id=row["id"],
        description=merged.description,
        rego=merged.rego,
        source_revision=merged.revision,
        digest=merged.digest,
        active=merged.active,
    )
    if renewed:
        await _keep(tx, changed)
    return pb.UpdatePolicyResponse(policy=_wire(changed))


async def find(tx: Transaction, policy_id: str, *, locked: bool = False) -> Row:
    """Give the row of a policy."""
    row = await tx.one(_lock if locked else _get, id=policy_id)
    if row is None:
        raise PolicyNotFound(policy_id)
    return row


async def _keep(tx: Transaction, row: Row) -> None:
    await tx.run(
        _revise,
        policy_id=row["id"],
        source_revision=row["source_revision"],
        tenant_id=tx.tenant_id,
        rego=row["rego"],
        digest=row["digest"],
        created_by=calls.caller().id,
    )


def _digest(rego: str) -> str:
    return hashlib.sha256(rego.encode()).hexdigest()


def _wire(row: Row) -> Policy:
    return Policy(
        id=str(row["id"]),
        name=row["name"],
        description=row["description"],
        rego=row["rego"],
        revision=row["source_revision"],
        digest=row["digest"],
        active=row["active"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
    )
