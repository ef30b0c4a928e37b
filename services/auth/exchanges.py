"""Exchange of an agent's secret for a short access token, and the log of its uses.

Nothing more is said to whoever fails; the log of uses says it to the tenant's admins. A use commits before the answer,
and a refusal once its source was admitted, so that a secret that is over cannot fill the log.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Boolean, Column, DateTime, Interval, MetaData, Table, Text, Uuid, func, insert, select, update

from services.auth import agents, credentials, events, scopes, tenants
from services.auth.credentials import Secret
from services.auth.sources import Source
from services.kit import faults
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from triptych.auth.v1 import agent_credential_pb2 as wire_pb, agent_credential_service_pb2 as pb

FRESH = timedelta(minutes=1)
"""`last_use_time` is as exact as this; each use has a row of its own in the log."""

table = Table(
    "credential_usage_logs",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("credential_id", Uuid, nullable=False),
    Column("success", Boolean, nullable=False),
    Column("problem", Text, nullable=False),
    Column("ip_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    implicit_returning=False,
)
_insert = Statement(insert(table).values(**params("tenant_id credential_id success problem ip_address user_agent")))
_credential, _agent = credentials.table.c, agents.table.c
_end = func.least(_credential.expire_time, _credential.revoke_time)
_find = Statement(
    select(
        _credential.id,
        _credential.agent_id,
        _credential.tenant_id,
        _credential.scopes,
        _end.label("end_time"),
        (_end <= func.now()).label("over"),
        (_credential.revoke_time <= func.now()).label("revoked"),
        _agent.status,
        _agent.scopes.label("agent_scopes"),
        _agent.token_version,
    )
    .join(agents.table, _agent.id == _credential.agent_id)
    .join(tenants.table, (tenants.table.c.id == _credential.tenant_id) & tenants.table.c.delete_time.is_(None))
    .where(_credential.secret_hash == param("digest"))
)
_touch = Statement(
    update(credentials.table)
    .where(
        _credential.id == param("credential_id"),
        (_credential.last_use_time.is_(None)) | (_credential.last_use_time < func.now() - param("fresh", Interval())),
    )
    .values(last_use_time=func.now())
)


class CredentialInvalid(faults.Unauthenticated):
    """The secret is not one of an agent that may act now."""

    def __init__(self) -> None:
        super().__init__("the secret is not good, or no longer, or its agent may not act now")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token may say, or why there is none."""

    row: Row
    scopes: list[str]
    problem: str = ""


async def use(tx: Transaction, secret: Secret, wanted: list[str], source: Source) -> Grant | None:
    """Note a use and say what the token may hold, or what is in the way; None when nobody has the secret."""
    row = await tx.one(_find, digest=secret.digest)
    if row is None:
        return None
    if problem := _problem(row):
        return Grant(row, [], problem)
    held = [scope for scope in row["agent_scopes"] if not row["scopes"] or scope in row["scopes"]]
    given = scopes.check(wanted, among=held) or sorted(held)
    await _note(tx, row, source, "")
    await tx.run(_touch, credential_id=row["id"], fresh=FRESH)
    return Grant(row, given)


async def refuse(tx: Transaction, grant: Grant, source: Source) -> None:
    """Note why there was no token."""
    await _note(tx, grant.row, source, grant.problem)
    resource, failure = f"agent_credential:{grant.row['id']}", {"problem": grant.problem}
    await events.write(tx, "auth.agent_credential.refuse", resource, source=source, failure=failure)


async def page(
    tx: Transaction, request: pb.ListAgentCredentialUsesRequest, page: Page
) -> pb.ListAgentCredentialUsesResponse:
    """Give one page of a credential's uses, newest first."""
    await credentials.find(tx, request.credential_id)
    query = select(table).where(table.c.credential_id == request.credential_id)
    query = query.order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListAgentCredentialUsesResponse(uses=[_wire(row) for row in rows], next_page_token=token)


def _problem(row: Row) -> str:
    if row["over"]:
        return "revoked" if row["revoked"] else "expired"
    return "" if row["status"] in agents.ACTING else "agent_inactive"


async def _note(tx: Transaction, row: Row, source: Source, problem: str) -> None:
    await tx.run(
        _insert,
        tenant_id=tx.tenant_id,
        credential_id=row["id"],
        success=not problem,
        problem=problem,
        ip_address=source.address,
        user_agent=source.user_agent,
    )


def _wire(row: Row) -> wire_pb.AgentCredentialUse:
    return wire_pb.AgentCredentialUse(
        id=str(row["id"]),
        credential_id=str(row["credential_id"]),
        success=row["success"],
        problem=row["problem"],
        ip_address=row["ip_address"],
        user_agent=row["user_agent"],
        create_time=row["create_time"],
    )
