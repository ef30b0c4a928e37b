"""Tenants: the row, its wire form, its queries. A call sees its own, and the names of those that its caller belongs to.

A slug is never given twice, deleted or not; `foundations` makes and deletes tenants, the operator brings one back.
"""

from uuid import UUID

from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    Label,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from services.auth.words import ROLES, TIERS
from services.kit import calls, canonical, faults, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from triptych.auth.v1 import tenant_pb2, tenant_service_pb2 as pb

EXTERNAL_IDS = ("discord_guild_id", "telegram_chat_id")
UPDATABLE = ("display_name", "settings", *EXTERNAL_IDS)
OWN_SLUGS = ("system", "installation")
"""Of the system tenant; the second where an ordinary tenant has had the first for long."""
RESERVED = frozenset({*OWN_SLUGS, "super"})
"""Slugs that no ordinary tenant gets: they would be taken for the installation's tenant and its logs."""
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
    Column("discord_guild_id", Text),
    Column("telegram_chat_id", Text),
    Column("created_by", Uuid),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("delete_time", DateTime(timezone=True)),
)
_live = table.c.delete_time.is_(None)
_mine = (table.c.id == param("tenant_id")) & _live
_changed = {"revision": table.c.revision + 1, "update_time": func.now()}
_get = Statement(select(table).where(_mine))
_exists = Statement(select(table.c.id).where(table.c.id == param("tenant_id")))
_lock = Statement(select(table).where(_mine).with_for_update())
_find = Statement(select(table.c.id, table.c.delete_time).where(table.c.slug == param("slug")))
_insert = Statement(
    insert(table)
    .values(**params("id slug display_name settings discord_guild_id telegram_chat_id created_by"), tier="free")
    .on_conflict_do_nothing(index_elements=["slug"])
    .returning(*table.c)
)
_update = Statement(
    update(table)
    .where(table.c.id == param("tenant_id"))
    .values(**params("display_name settings discord_guild_id telegram_chat_id"), **_changed)
    .returning(*table.c)
)
_delete = Statement(
    update(table)
    .where(table.c.id == param("tenant_id"), _live)
    .values(delete_time=func.now(), **_changed)
    .returning(*table.c)
)
_undelete = Statement(
    update(table)
    .where(table.c.id == param("tenant_id"), ~_live)
    .values(delete_time=None, **_changed)
    .returning(*table.c)
)
_set_tier = Statement(
    update(table)
    .where(table.c.id == param("tenant_id"), _live)
    .values(tier=param("new_tier"), **_changed)
    .returning(*table.c)
)
_belongings = Statement(
    text(
        "SELECT * FROM tenants_of(CAST(:user_id AS uuid)) WHERE CAST(:after AS text) IS NULL OR slug > :after"
        " ORDER BY slug LIMIT :most"
    ).bindparams(param("most", Integer()))
)
_belongs = Statement(
    text("SELECT * FROM tenants_of(CAST(:user_id AS uuid)) WHERE tenant_id = CAST(:tenant_id AS uuid)")
)
_landing = Statement(
    text("SELECT tenant_id FROM tenants_of(CAST(:user_id AS uuid)) ORDER BY home DESC, tenant_id LIMIT 1")
)
LANDING: Label[UUID] = literal_column(
    "coalesce((SELECT tenant_id FROM tenants_of(users.id) ORDER BY home DESC, tenant_id LIMIT 1),"
    " users.default_tenant_id)",
    Uuid(),
).label("landing_tenant_id")
"""As `landing`, for a query that names people; the home tenant of somebody who belongs to none."""


class TenantNotFound(faults.NotFound):
    """No such tenant, or the caller does not belong to it."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__("there is no such tenant, or the caller does not belong to it", tenant_id=tenant_id)


class SlugTaken(faults.AlreadyExists):
    """Another tenant has or had this slug."""

    def __init__(self, slug: str) -> None:
        super().__init__("another tenant has or had this slug, and none is given twice; choose another", slug=slug)


class ExternalIdTaken(faults.AlreadyExists):
    """Another tenant has this guild or chat."""

    def __init__(self, field: str) -> None:
        super().__init__(f"another tenant has this {field}; a guild or chat is of one tenant", field=field)


CONSTRAINTS = {
    "tenants_discord_guild": lambda: ExternalIdTaken("discord_guild_id"),
    "tenants_telegram_chat": lambda: ExternalIdTaken("telegram_chat_id"),
}


async def find(tx: Transaction, slug: str) -> Row | None:
    """Give id and delete_time of the tenant with this slug, live or not; in a transaction of the system tenant."""
    return await tx.one(_find, slug=slug)


async def exists(tx: Transaction) -> bool:
    """Say whether the tenant of the transaction has a row, live or not."""
    return await tx.one(_exists, tenant_id=tx.tenant_id) is not None


async def store(tx: Transaction, given: tenant_pb2.Tenant, *, created_by: str | None = None) -> Row | None:
    """Store the tenant of this transaction; None when another has or had the slug."""
    return await tx.one(
        _insert,
        id=tx.tenant_id,
        slug=given.slug,
        display_name=given.display_name,
        settings=canonical.document("tenant.settings", given.settings, LARGEST_SETTINGS),
        created_by=created_by,
        **_external_ids(given),
    )


async def get(tx: Transaction) -> tenant_pb2.Tenant:
    """Give the tenant of the transaction."""
    return wire(await _row(tx, _get))


async def lock(tx: Transaction) -> Row:
    """Give the row of the transaction's tenant, locked until it ends."""
    return await _row(tx, _lock)


async def page(tx: Transaction, page: Page) -> pb.ListTenantsResponse:
    """Give one page of the tenants that the caller belongs to, by slug."""
    caller = calls.caller()
    after = page.after[0] if page.after is not None else None
    found = await tx.all(_belongings, user_id=caller.id, after=after, most=page.limit)
    rows, token = page.end(found, key=lambda row: (row["slug"],))
    return pb.ListTenantsResponse(tenants=[_belonging(row, caller.tenant_id) for row in rows], next_page_token=token)


async def belonging(tx: Transaction, user_id: str) -> tenant_pb2.TenantMembership:
    """Give what a person, who is a member, is in the transaction's tenant."""
    row = await tx.only(_belongs, user_id=user_id, tenant_id=tx.tenant_id)
    return _belonging(row, calls.caller().tenant_id)


async def landing(tx: Transaction, user_id: object) -> str | None:
    """Give the tenant that a person logs in to: home, or else the oldest of the others; None when they have none."""
    row = await tx.one(_landing, user_id=user_id)
    return str(row["tenant_id"]) if row is not None else None


async def change(tx: Transaction, request: pb.UpdateTenantRequest) -> pb.UpdateTenantResponse:
    """Change what the mask names."""
    given = request.tenant
    if given.id not in ("", calls.caller().tenant_id):
        problem = "must be empty, or the tenant of the token: no other can be changed"
        raise faults.RequestInvalid(f"tenant.id: {problem}", violations={"tenant.id": problem}, fields="tenant.id")
    row = await lock(tx)
    updates.check_etag(given.etag, row["revision"])
    merged = updates.merge(wire(row), given, request.update_mask, UPDATABLE)
    changed = await tx.only(
        _update,
        tenant_id=row["id"],
        display_name=merged.display_name,
        settings=canonical.document("tenant.settings", merged.settings, LARGEST_SETTINGS),
        **_external_ids(merged),
    )
    tenant = wire(changed)
    await outbox.record(tx, f"tenant:{tenant.id}", tenant)
    return pb.UpdateTenantResponse(tenant=tenant)


async def delete(tx: Transaction) -> None:
    """Mark the transaction's tenant as deleted."""
    await tx.only(_delete, tenant_id=tx.tenant_id)


async def undelete(tx: Transaction) -> Row | None:
    """Bring the transaction's tenant back; None when it is live."""
    return await tx.one(_undelete, tenant_id=tx.tenant_id)


async def set_tier(tx: Transaction, tier: str) -> Row | None:
    """Set the tier of the transaction's tenant; None when it is deleted."""
    return await tx.one(_set_tier, tenant_id=tx.tenant_id, new_tier=tier)


def wire(row: Row) -> tenant_pb2.Tenant:
    """Give a tenant as its people see it."""
    tenant = tenant_pb2.Tenant(
        id=str(row["id"]),
        slug=row["slug"],
        display_name=row["display_name"],
        tier=TIERS.number(row["tier"]),
        discord_guild_id=row["discord_guild_id"] or "",
        telegram_chat_id=row["telegram_chat_id"] or "",
        create_time=row["create_time"],
        update_time=row["update_time"],
        delete_time=row["delete_time"],
        etag=updates.etag(row["revision"]),
    )
    tenant.settings.update(row["settings"])
    return tenant


async def _row(tx: Transaction, statement: Statement) -> Row:
    row = await tx.one(statement, tenant_id=tx.tenant_id)
    if row is None:  # it was deleted after the token was given
        raise faults.TokenInvalid
    return row


def _external_ids(tenant: tenant_pb2.Tenant) -> dict[str, str | None]:
    return {name: getattr(tenant, name) or None for name in EXTERNAL_IDS}


def _belonging(row: Row, current: str) -> tenant_pb2.TenantMembership:
    return tenant_pb2.TenantMembership(
        tenant_id=str(row["tenant_id"]),
        slug=row["slug"],
        display_name=row["display_name"],
        role=ROLES.number(row["role"]),
        current=str(row["tenant_id"]) == current,
        home=row["home"],
    )
