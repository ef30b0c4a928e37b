"""Invitations: the row, its wire form, its queries and its faults. The code is shown once and stored as a hash."""

from datetime import UTC, timedelta

from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    and_,
    func,
    insert,
    or_,
    select,
    update,
)

from services.auth import codes, events, memberships, tenants, users
from services.auth.codes import Code
from services.auth.sources import Source
from services.auth.words import ROLES
from services.kit import calls, clock, faults, outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from triptych.auth.v1 import invitation_pb2, invitation_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

USUAL, LONGEST = timedelta(days=7), timedelta(days=30)

table = Table(
    "invitations",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("code_hash", LargeBinary, nullable=False),
    Column("role", Text, nullable=False),
    Column("max_uses", Integer, nullable=False),
    Column("uses", Integer, nullable=False, server_default="0"),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("created_by", Uuid),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("revoke_time", DateTime(timezone=True)),
)
uses = Table(
    "invitation_uses",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("invitation_id", Uuid, primary_key=True),
    Column("user_id", Uuid, primary_key=True),
    implicit_returning=False,
)
_insert = Statement(
    insert(table).values(**params("tenant_id code_hash role max_uses expire_time created_by")).returning(*table.c)
)
_expect = Statement(
    select(table.c.id)
    .join(tenants.table, tenants.table.c.id == table.c.tenant_id)
    .where(table.c.code_hash == param("code_hash"), tenants.table.c.delete_time.is_(None))
)
# Who may not invite any more has not left a way in: an invitation is as good as the admin who made it.
_inviter = (
    select(memberships.table.c.user_id)
    .join(users.table, users.table.c.id == memberships.table.c.user_id)
    .where(
        memberships.table.c.user_id == table.c.created_by,
        memberships.table.c.role == "admin",
        memberships.table.c.remove_time.is_(None),
        users.ACTIVE,
    )
    .correlate(table)
)
_good = and_(
    or_(table.c.created_by.is_(None), _inviter.exists()),
    table.c.code_hash == param("digest"),
    table.c.uses < table.c.max_uses,
    table.c.expire_time > func.now(),
    table.c.revoke_time.is_(None),
    tenants.table.c.id == table.c.tenant_id,
    tenants.table.c.delete_time.is_(None),
)
_find_good = Statement(select(table.c.id).where(_good))
_consume = Statement(update(table).where(_good).values(uses=table.c.uses + 1).returning(table.c.id, table.c.role))
_use = Statement(insert(uses).values(**params("tenant_id invitation_id user_id")))
_get = Statement(select(table).where(table.c.id == param("id")))
_revoke = Statement(
    update(table)
    .where(table.c.id == param("invitation_id"), table.c.revoke_time.is_(None))
    .values(revoke_time=func.now())
    .returning(*table.c)
)
_revoke_bootstrap = Statement(
    update(table)
    .where(table.c.created_by.is_(None), table.c.revoke_time.is_(None), table.c.uses == 0)
    .values(revoke_time=func.now())
)


class InvitationInvalid(faults.FailedPrecondition):
    """Unknown, used up, expired or revoked; which of them is not said."""

    def __init__(self) -> None:
        super().__init__("the invitation is not good, or no longer; ask an admin for a new one")


CONSTRAINTS = dict.fromkeys(("invitation_uses_pkey", "invitation_uses_invitation_id_user_id_key"), InvitationInvalid)
"""Nobody uses an invitation twice: who was removed needs another one."""


class InvitationNotFound(faults.NotFound):
    """No such invitation in the caller's tenant."""

    def __init__(self, invitation_id: str) -> None:
        super().__init__("there is no such invitation", invitation_id=invitation_id)


def parse(text: str) -> Code:
    """Read a code, or refuse it."""
    code = codes.parse(codes.INVITATION, text)
    if code is None:
        raise InvitationInvalid
    return code


async def create(tx: Transaction, request: pb.CreateInvitationRequest) -> pb.CreateInvitationResponse:
    """Store an invitation and give its code."""
    given = request.invitation
    now = clock.now()
    expire_time = given.expire_time.ToDatetime(UTC) if given.HasField("expire_time") else now + USUAL
    if not now < expire_time <= now + LONGEST:
        field, text = "invitation.expire_time", "must be ahead, by 30 days at most"
        raise faults.RequestInvalid(f"{field}: {text}", violations={field: text}, fields=field)
    code = codes.create(codes.INVITATION, tx.tenant_id)
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        code_hash=code.digest,
        role=ROLES.word(given.role),
        max_uses=given.max_uses or 1,
        expire_time=expire_time,
        created_by=calls.caller().id,
    )
    invitation = _wire(row)
    await outbox.record(tx, f"invitation:{invitation.id}", invitation)
    return pb.CreateInvitationResponse(invitation=invitation, code=code.text)


async def bootstrap(tx: Transaction, *, by: str) -> str:
    """Store the invitation of a tenant's first admin and give its code; those made so before, and not used, end."""
    await tx.run(_revoke_bootstrap)
    code = codes.create(codes.INVITATION, tx.tenant_id)
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        code_hash=code.digest,
        role=ROLES.word(Role.ROLE_ADMIN),
        max_uses=1,
        expire_time=clock.now() + USUAL,
        created_by=None,
    )
    invitation = _wire(row)
    await outbox.record(
        tx, f"invitation:{invitation.id}", invitation, action="auth.invitation.create", actor=("service", by)
    )
    return code.text


async def expect(tx: Transaction, code: Code) -> None:
    """Refuse a code that never was one, before a password is hashed for it."""
    if await tx.one(_expect, code_hash=code.digest) is None:
        raise InvitationInvalid


async def expect_good(tx: Transaction, code: Code) -> None:
    """Refuse a code that could not be used now, and leave it as it is."""
    if await tx.one(_find_good, digest=code.digest) is None:
        raise InvitationInvalid


async def consume(tx: Transaction, code: Code, user_id: str) -> Row:
    """Use an invitation once, for this person, and give it; in the transaction that makes the person."""
    row = await tx.one(_consume, digest=code.digest)
    if row is None:
        raise InvitationInvalid
    await tx.run(_use, tenant_id=tx.tenant_id, invitation_id=row["id"], user_id=user_id)
    return row


async def accept(tx: Transaction, code: Code, source: Source) -> pb.AcceptInvitationResponse:
    """Make the caller a member of the invitation's tenant, whose transaction it is; who is one stays what they are."""
    caller = calls.caller()
    await expect(tx, code)
    person = await users.lock(tx, caller.id)
    if person is None or person["disable_time"] is not None:
        raise faults.TokenInvalid
    details: dict[str, str] = {}
    if await memberships.find(tx, caller.id) is None:
        invitation = await consume(tx, code, caller.id)
        await memberships.add(tx, caller.id, invitation["role"])
        await _land(tx, person)
        details = {"role": invitation["role"], "invitation_id": str(invitation["id"])}
    resource = f"user:{caller.id}"
    await events.write(tx, "auth.invitation.accept", resource, source=source, user_id=caller.id)
    await outbox.record(tx, resource, details)
    return pb.AcceptInvitationResponse(membership=await tenants.belonging(tx, caller.id))


async def _land(tx: Transaction, person: Row) -> None:
    """Give somebody whose home tenant is gone, or who is gone from it, a home again."""
    home = await tenants.landing(tx, person["id"])
    if home is not None and home != str(person["default_tenant_id"]):
        await users.move(tx, person["id"], home)


async def page(tx: Transaction, page: Page) -> pb.ListInvitationsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListInvitationsResponse(invitations=[_wire(row) for row in rows], next_page_token=token)


async def revoke(tx: Transaction, request: pb.RevokeInvitationRequest) -> pb.RevokeInvitationResponse:
    """End an invitation; one that ended stays as it is."""
    row = await tx.one(_revoke, invitation_id=request.invitation_id) or await tx.one(_get, id=request.invitation_id)
    if row is None:
        raise InvitationNotFound(request.invitation_id)
    await outbox.record(tx, f"invitation:{row['id']}")
    return pb.RevokeInvitationResponse(invitation=_wire(row))


def _wire(row: Row) -> invitation_pb2.Invitation:
    return invitation_pb2.Invitation(
        id=str(row["id"]),
        role=ROLES.number(row["role"]),
        max_uses=row["max_uses"],
        uses=row["uses"],
        expire_time=row["expire_time"],
        revoke_time=row["revoke_time"],
        created_by=str(row["created_by"] or ""),
        create_time=row["create_time"],
    )
