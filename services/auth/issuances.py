"""Issuances of agent credentials: create, rotate, revoke, list.

What adds a credential holds the agent's row, so that two are live at most.
"""

from sqlalchemy import select

from services.auth import agents, credentials, scopes
from services.kit import outbox
from services.kit.db import Transaction
from services.kit.paging import Page
from triptych.auth.v1 import agent_credential_service_pb2 as pb


async def create(tx: Transaction, request: pb.CreateAgentCredentialRequest) -> pb.CreateAgentCredentialResponse:
    """Store a credential and give its secret."""
    given = request.agent_credential
    agent = await agents.lock(tx, given.agent_id)
    secret = credentials.begin(tx.tenant_id)
    row = await credentials.store(
        tx,
        agent["id"],
        secret,
        name=given.display_name,
        scopes=scopes.check(given.scopes, among=agent["scopes"]),
        expire_time=credentials.expiry(given),
    )
    credential = credentials.wire(row)
    await outbox.record(tx, f"agent_credential:{credential.id}", credential)
    return pb.CreateAgentCredentialResponse(agent_credential=credential, secret=secret.text)


async def rotate(tx: Transaction, request: pb.RotateAgentCredentialRequest) -> pb.RotateAgentCredentialResponse:
    """Store a credential like the old one and give its secret; the old one ends a day later."""
    agent = await agents.lock(tx, str((await credentials.find(tx, request.credential_id))["agent_id"]))
    old = await credentials.find(tx, request.credential_id)  # as it is now that the agent's row is held
    await credentials.expect_live(tx, old)
    secret = credentials.begin(tx.tenant_id)
    row = await credentials.store(
        tx,
        agent["id"],
        secret,
        name=old["display_name"],
        scopes=[scope for scope in old["scopes"] if scope in agent["scopes"]],
        expire_time=credentials.successor_expiry(old),
    )
    replaced = credentials.wire(await credentials.replace(tx, old, row["id"]))
    credential = credentials.wire(row)
    details = {"replaces": replaced.id, "agent_id": replaced.agent_id}
    await outbox.record(tx, f"agent_credential:{credential.id}", details)
    return pb.RotateAgentCredentialResponse(agent_credential=credential, replaced=replaced, secret=secret.text)


async def revoke(tx: Transaction, request: pb.RevokeAgentCredentialRequest) -> pb.RevokeAgentCredentialResponse:
    """End a credential; one that ended stays as it is."""
    ended = await credentials.end(tx, await credentials.find(tx, request.credential_id))
    await outbox.record(tx, f"agent_credential:{ended['id']}", {"agent_id": str(ended["agent_id"])})
    return pb.RevokeAgentCredentialResponse(agent_credential=credentials.wire(ended))


async def page(tx: Transaction, request: pb.ListAgentCredentialsRequest, page: Page) -> pb.ListAgentCredentialsResponse:
    """Give one page of an agent's credentials, newest first."""
    await agents.expect(tx, request.agent_id)
    columns = credentials.table.c
    query = select(*credentials.shown).where(columns.agent_id == request.agent_id)
    query = query.order_by(columns.id.desc()).limit(page.limit)
    if request.live_only:
        query = query.where(credentials.LIVE)
    if page.after is not None:
        query = query.where(columns.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    found = [credentials.wire(row) for row in rows]
    return pb.ListAgentCredentialsResponse(agent_credentials=found, next_page_token=token)
