"""Agents: programs that act under their own name. What they work on belongs to other services.

Whoever may not act gets no tokens, and loses those that are out: by `token_version`, as with people.
"""

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from services.auth import credentials, revocations, scopes
from services.auth.words import LEVELS, STATUSES
from services.kit import calls, faults, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from triptych.auth.v1 import agent_pb2, agent_service_pb2 as pb

UPDATABLE = ("display_name", "description", "level", "scopes")
ACTING = ("active", "probation")
"""An agent with one of these may act."""

table = Table(
    "agents",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("level", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    Column("status_reason", Text, nullable=False, server_default=""),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("token_version", BigInteger, nullable=False, server_default="1"),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("created_by", Uuid, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_insert = Statement(
    insert(table).values(**params("tenant_id display_name description level scopes created_by")).returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
_changed = {"revision": table.c.revision + 1, "update_time": func.now()}
_version = table.c.token_version + param("versions", BigInteger())
_update = Statement(
    update(table)
    .where(table.c.id == param("agent_id"))
    .values(**params("display_name description level scopes"), token_version=_version, **_changed)
    .returning(*table.c)
)
_set_status = Statement(
    update(table)
    .where(table.c.id == param("agent_id"))
    .values(**params("status status_reason"), token_version=_version, **_changed)
    .returning(*table.c)
)


class AgentNotFound(faults.NotFound):
    """No such agent in the caller's tenant."""

    def __init__(self, agent_id: str) -> None:
        super().__init__("there is no such agent", agent_id=agent_id)


class AgentNameTaken(faults.AlreadyExists):
    """Another agent of the tenant has this name."""

    def __init__(self) -> None:
        super().__init__("an agent of this name exists; choose another name")


class AgentTerminated(faults.FailedPrecondition):
    """The agent will not act again."""

    def __init__(self, agent_id: object) -> None:
        super().__init__("the agent is terminated, which cannot be undone; create another", agent_id=agent_id)


CONSTRAINTS = {"agents_name": AgentNameTaken}


async def create(tx: Transaction, request: pb.CreateAgentRequest) -> pb.CreateAgentResponse:
    """Store an agent; it has no credentials yet."""
    given = request.agent
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        display_name=given.display_name,
        description=given.description,
        level=LEVELS.word(given.level),
        scopes=scopes.check(given.scopes),
        created_by=calls.caller().id,
    )
    agent = _wire(row)
    await outbox.record(tx, f"agent:{agent.id}", agent)
    return pb.CreateAgentResponse(agent=agent)


async def get(tx: Transaction, request: pb.GetAgentRequest) -> agent_pb2.Agent:
    """Give one agent; to an agent itself only."""
    caller = calls.caller()
    agent_id = request.agent_id or caller.id
    if caller.kind == "agent" and agent_id != caller.id:
        raise faults.CallerNotPermitted("an agent reads itself only", permission="agents.get")
    return _wire(await _row(tx, _get, agent_id))


async def page(tx: Transaction, request: pb.ListAgentsRequest, page: Page) -> pb.ListAgentsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if request.status:
        query = query.where(table.c.status == STATUSES.word(request.status))
    else:
        query = query.where(table.c.status != "terminated")
    if request.query:
        query = query.where(table.c.display_name.icontains(request.query, autoescape=True))
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListAgentsResponse(agents=[_wire(row) for row in rows], next_page_token=token)


async def change(tx: Transaction, request: pb.UpdateAgentRequest) -> pb.UpdateAgentResponse:
    """Change what the mask names; tokens with a scope that was taken away end."""
    row = await lock(tx, updates.target(request, "agent"))
    updates.check_etag(request.agent.etag, row["revision"])
    merged = updates.merge(_wire(row), request.agent, request.update_mask, UPDATABLE)
    kept = scopes.check(merged.scopes)
    narrower = not set(row["scopes"]) <= set(kept)
    changed = await tx.only(
        _update,
        agent_id=row["id"],
        display_name=merged.display_name,
        description=merged.description,
        level=LEVELS.word(merged.level),
        scopes=kept,
        versions=int(narrower),
    )
    if narrower:
        await revocations.of_subject(tx, row["id"], changed["token_version"])
    agent = _wire(changed)
    await outbox.record(tx, f"agent:{agent.id}", agent)
    return pb.UpdateAgentResponse(agent=agent)


async def set_status(tx: Transaction, request: pb.SetAgentStatusRequest) -> pb.SetAgentStatusResponse:
    """Change whether the agent may act."""
    row = await lock(tx, request.agent_id)
    status = STATUSES.word(request.status)
    ends = status not in ACTING
    changed = await tx.only(
        _set_status, agent_id=row["id"], status=status, status_reason=request.reason, versions=int(ends)
    )
    if ends:
        await revocations.of_subject(tx, row["id"], changed["token_version"])
    if status == "terminated":
        await credentials.end_all(tx, row["id"])
    agent = _wire(changed)
    details = {"from": row["status"], "to": status, "reason": request.reason}
    await outbox.record(tx, f"agent:{agent.id}", details)
    return pb.SetAgentStatusResponse(agent=agent)


async def lock(tx: Transaction, agent_id: str) -> Row:
    """Give the row of an agent that is not terminated, locked until the transaction ends."""
    row = await _row(tx, _lock, agent_id)
    if row["status"] == "terminated":
        raise AgentTerminated(agent_id)
    return row


async def expect(tx: Transaction, agent_id: str) -> None:
    """Refuse an agent that is none of this tenant."""
    await _row(tx, _get, agent_id)


async def _row(tx: Transaction, statement: Statement, agent_id: str) -> Row:
    row = await tx.one(statement, id=agent_id)
    if row is None:
        raise AgentNotFound(agent_id)
    return row


def _wire(row: Row) -> agent_pb2.Agent:
    return agent_pb2.Agent(
        id=str(row["id"]),
        display_name=row["display_name"],
        description=row["description"],
        level=LEVELS.number(row["level"]),
        status=STATUSES.number(row["status"]),
        status_reason=row["status_reason"],
        scopes=row["scopes"],
        created_by=str(row["created_by"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
    )
