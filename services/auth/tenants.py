"""Tenants: the row, its wire form, its queries. A call sees its own; bootstrap finds one by its slug."""

from sqlalchemy import Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from services.kit import calls, canonical, faults, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from triptych.auth.v1 import tenant_pb2, tenant_service_pb2 as pb

UPDATABLE = ("display_name", "settings")
LARGEST_SETTINGS = 16 * 1024
"""Bytes as JSON."""

table = Table(
    "tenants",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("slug", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("settings", JSONB, nullable=False),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("delete_time", DateTime(timezone=True)),
)
_mine = (table.c.id == param("tenant_id")) & table.c.delete_time.is_(None)
_get = Statement(select(table).where(_mine))
_lock = Statement(select(table).where(_mine).with_for_update())
_find = Statement(select(table.c.id).where(table.c.slug == param("slug"), table.c.delete_time.is_(None)))
_insert = Statement(
    insert(table)
    .values(**params("id slug display_name"), tier="free", settings={})
    .on_conflict_do_nothing(index_elements=["slug"])
    .returning(*table.c)
)
_update = Statement(
    update(table)
    .where(table.c.id == param("tenant_id"))
    .values(**params("display_name settings"), revision=table.c.revision + 1, update_time=func.now())
    .returning(*table.c)
)


async def find(tx: Transaction, slug: str) -> str | None:
    """Give the id of the tenant with this slug; in a transaction of the system tenant."""
    row = await tx.one(_find, slug=slug)
    return str(row["id"]) if row is not None else None


async def create(tx: Transaction, slug: str, *, by: str) -> bool:
    """Store the tenant of this transaction; False when somebody has just taken the slug."""
    row = await tx.one(_insert, id=tx.tenant_id, slug=slug, display_name=slug)
    if row is None:
        return False
    tenant = _wire(row)
    await outbox.record(tx, f"tenant:{tenant.id}", tenant, action="auth.tenant.create", actor=("service", by))
    return True


async def get(tx: Transaction) -> tenant_pb2.Tenant:
    """Give the tenant of the transaction."""
    return _wire(await _row(tx, _get))


async def change(tx: Transaction, request: pb.UpdateTenantRequest) -> pb.UpdateTenantResponse:
    """Change what the mask names."""
    given = request.tenant
    if given.id not in ("", calls.caller().tenant_id):
        text = "must be empty, or the tenant of the token: no other can be changed"
        raise faults.RequestInvalid(f"tenant.id: {text}", violations={"tenant.id": text}, fields="tenant.id")
    row = await _row(tx, _lock)
    updates.check_etag(given.etag, row["revision"])
    merged = updates.merge(_wire(row), given, request.update_mask, UPDATABLE)
    settings = canonical.document("tenant.settings", merged.settings, LARGEST_SETTINGS)
    changed = await tx.only(
        _update,
        tenant_id=row["id"],
        display_name=merged.display_name,
        settings=settings,
    )
    tenant = _wire(changed)
    await outbox.record(tx, f"tenant:{tenant.id}", tenant)
    return pb.UpdateTenantResponse(tenant=tenant)


async def _row(tx: Transaction, statement: Statement) -> Row:
    row = await tx.one(statement, tenant_id=tx.tenant_id)
    if row is None:  # it was deleted after the token was given
        raise faults.TokenInvalid
    return row


def _wire(row: Row) -> tenant_pb2.Tenant:
    tenant = tenant_pb2.Tenant(
        id=str(row["id"]),
        slug=row["slug"],
        display_name=row["display_name"],
        tier=tenant_pb2.TenantTier.Value(f"TENANT_TIER_{row['tier'].upper()}"),
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
    )
    tenant.settings.update(row["settings"])
    return tenant
