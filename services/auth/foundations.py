"""How tenants begin and end: a person makes one and becomes its first admin; an admin deletes one.

What is made belongs to another tenant than the caller's: for those statements, and no others, the transaction is that
one's.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import select, text

from services.auth import events, memberships, reauthentications, revocations, tenants, users
from services.auth.sources import Source
from services.auth.words import ROLES
from services.kit import calls, faults, outbox, updates
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Statement, Transaction, param
from triptych.auth.v1 import tenant_pb2, tenant_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

MOST = 20
"""Tenants that one person may make, deleted ones included."""
_lock_person = Statement(
    select(users.table.c.id).where(users.table.c.id == param("user_id"), users.ACTIVE).with_for_update(key_share=True)
)
_count = Statement(text("SELECT tenants_made_by(CAST(:user_id AS uuid)) AS made, uuidv7()::text AS new_id"))
_enter = Statement(text("SELECT set_config('app.tenant', :tenant_id, true)"))


class TenantLimit(faults.FailedPrecondition):
    """The caller has made as many tenants as one person may."""

    def __init__(self) -> None:
        super().__init__(f"one person makes {MOST} tenants at most; ask somebody else to make this one", limit=MOST)


async def create(tx: Transaction, request: pb.CreateTenantRequest, source: Source) -> pb.CreateTenantResponse:
    """Make a tenant with the caller as its first admin."""
    caller = calls.caller()
    if request.tenant.slug in tenants.RESERVED:
        raise _refused("tenant.slug", "is kept for the installation itself; choose another")
    new_id = await _admit(tx, caller.id)
    async with _inside(tx, new_id) as born:
        row = await tenants.store(born, request.tenant, created_by=caller.id)
        if row is None:
            raise tenants.SlugTaken(request.tenant.slug)
        await memberships.add(born, caller.id, ROLES.word(Role.ROLE_ADMIN))
        tenant = tenants.wire(row)
        resource = f"tenant:{tenant.id}"
        await events.write(born, "auth.tenant.create", resource, source=source, user_id=caller.id)
        await outbox.record(born, resource, tenant)
    await outbox.record(tx, resource, {"slug": tenant.slug})
    return pb.CreateTenantResponse(tenant=tenant)


async def bootstrap(tx: Transaction, slug: str, *, by: str) -> bool:
    """Make the transaction's tenant with nobody in it; False when another has or had the slug."""
    row = await tenants.store(tx, tenant_pb2.Tenant(slug=slug, display_name=slug))
    if row is None:
        return False
    tenant = tenants.wire(row)
    await outbox.record(tx, f"tenant:{tenant.id}", tenant, action="auth.tenant.create", actor=("service", by))
    return True


async def delete(tx: Transaction, request: pb.DeleteTenantRequest, source: Source) -> pb.DeleteTenantResponse:
    """Delete the caller's tenant: nobody enters it any more, and the tokens that are out count no more."""
    await reauthentications.require(tx)
    row = await tenants.lock(tx)
    if request.slug != row["slug"]:
        raise _refused("slug", "must be the slug of the tenant of the token")
    if tx.tenant_id == SYSTEM_TENANT:
        raise _refused("slug", "is that of the installation itself, which stays")
    updates.check_etag(request.etag, row["revision"])
    await tenants.delete(tx)
    await revocations.of_tenant(tx, row["id"])
    resource = f"tenant:{row['id']}"
    await events.write(tx, "auth.tenant.delete", resource, source=source, user_id=calls.caller().id)
    await outbox.record(tx, resource, {"slug": row["slug"]})
    return pb.DeleteTenantResponse()


def _refused(field: str, problem: str) -> faults.RequestInvalid:
    return faults.RequestInvalid(f"{field}: {problem}", violations={field: problem}, fields=field)


async def _admit(tx: Transaction, user_id: str) -> str:
    """Let one at a time of a person's calls through, up to the limit, and give the new tenant's id."""
    if await tx.one(_lock_person, user_id=user_id) is None:
        raise faults.TokenInvalid
    row = await tx.only(_count, user_id=user_id)
    if row["made"] >= MOST:
        raise TenantLimit
    return str(row["new_id"])


@asynccontextmanager
async def _inside(tx: Transaction, tenant_id: str) -> AsyncIterator[Transaction]:
    """Do these statements of a transaction in another tenant; a failure ends the transaction anyway."""
    await tx.one(_enter, tenant_id=tenant_id)
    yield Transaction(tx.connection, tenant_id, tx.database)
    await tx.one(_enter, tenant_id=tx.tenant_id)
