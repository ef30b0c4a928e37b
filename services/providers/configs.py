"""What a tenant as a whole may use of AI: the row, its wire form, its queries, and what it forbids.

A tenant without a row may use everything without a limit of its own. The row is made with its first reservation: its
epoch says which of the tenant's counters count.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    Table,
    Uuid,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert as upsert

from services.kit import calls, faults, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import FailedPrecondition, PermissionDenied
from services.providers import alerts, ledgers, money, owners, providers, windows
from services.providers.windows import NAMES, Limits
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import tenant_ai_config_pb2, tenant_ai_config_service_pb2 as pb

UPDATABLE = (
    "ai_enabled",
    *NAMES,
    "platform_key_allowed",
    "local_fallback_allowed",
    "tier_overrides",
    "price_overrides",
)
OVERRIDES = {
    "tier_overrides": (tenant_ai_config_pb2.TierOverride, "role"),
    "price_overrides": (tenant_ai_config_pb2.PriceOverride, "provider_id"),
}
"""Message of an entry, and the field of which there is one entry at most for each value."""

table = Table(
    "tenant_ai_config",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("ai_enabled", Boolean, nullable=False),
    Column("daily_requests", BigInteger),
    Column("monthly_requests", BigInteger),
    Column("daily_tokens", BigInteger),
    Column("monthly_tokens", BigInteger),
    Column("daily_cost_usd", Numeric(20, 12)),
    Column("monthly_cost_usd", Numeric(20, 12)),
    Column("platform_key_allowed", Boolean, nullable=False),
    Column("local_fallback_allowed", Boolean, nullable=False),
    Column("tier_overrides", JSONB, nullable=False),
    Column("price_overrides", JSONB, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("update_time", DateTime(timezone=True), nullable=False),
    implicit_returning=False,
)
_with_now = (*table.c, func.now().label("now"))
_get = Statement(select(*_with_now))
_lock = Statement(select(*_with_now).with_for_update())
_share = Statement(select(*_with_now).with_for_update(read=True))
_ensure = Statement(upsert(table).values(tenant_id=param("tenant_id")).on_conflict_do_nothing())
_update = Statement(
    update(table)
    .values(**params(" ".join(UPDATABLE)), revision=table.c.revision + 1, update_time=func.now())
    .returning(*table.c)
)
_renew = Statement(
    update(table)
    .where(table.c.epoch == func.coalesce(param("seen", BigInteger), table.c.epoch))
    .values(epoch=table.c.epoch + 1)
    .returning(*_with_now)
)
_known = Statement(select(providers.table.c.id).where(providers.table.c.id == func.any(param("ids"))))


class AiDisabled(FailedPrecondition):
    """The tenant has AI switched off."""

    def __init__(self) -> None:
        super().__init__("AI is switched off for this tenant; an admin can switch it on with UpdateTenantAiConfig")


class ProviderNotAllowed(PermissionDenied):
    """The tenant does not let this role use the provider."""

    def __init__(self, provider_id: str) -> None:
        super().__init__("your role may not use this provider in this tenant; use another", provider_id=provider_id)


async def get(tx: Transaction) -> tuple[tenant_ai_config_pb2.TenantAiConfig, Limits]:
    """Give the configuration of the tenant, and its limits in the units of the windows."""
    row = await tx.one(_get)
    if row is None:
        return tenant_ai_config_pb2.TenantAiConfig(ai_enabled=True, etag=updates.etag(0)), dict.fromkeys(NAMES)
    return _wire(row), limits(row)


async def change(tx: Transaction, request: pb.UpdateTenantAiConfigRequest) -> pb.UpdateTenantAiConfigResponse:
    """Change the configuration. What is used up by a lower budget is told now, as with quotas."""
    await tx.run(_ensure, tenant_id=tx.tenant_id)
    row = await tx.only(_lock)
    updates.check_etag(request.config.etag, row["revision"])
    merged = updates.merge(_wire(row), request.config, request.update_mask, UPDATABLE)
    await _check_overrides(tx, merged)
    stored = await tx.only(_update, **_columns(merged))
    config = _wire(stored)
    await outbox.record(tx, f"tenant_ai_config:{tx.tenant_id}", config)
    if alerts.has_thresholds(limits(stored)):
        owner, day = owners.tenant(tx.tenant_id), row["now"].date()
        await alerts.raise_crossed(tx, owner, limits(stored), await ledgers.sums(tx, owner, day), day)
    return pb.UpdateTenantAiConfigResponse(config=config)


async def see(tx: Transaction) -> Row:
    """Give the row, made where need be."""
    row = await tx.one(_get)
    if row is None:
        await tx.run(_ensure, tenant_id=tx.tenant_id)
        row = await tx.only(_get)
    return row


async def share(tx: Transaction) -> Row:
    """Give the row, which nobody can change until the transaction ends."""
    row = await tx.one(_share)
    if row is None:
        await tx.run(_ensure, tenant_id=tx.tenant_id)
        row = await tx.only(_share)
    return row


async def renew(tx: Transaction, *, seen: int | None = None) -> Row | None:
    """Begin a new epoch and give the row, locked."""
    return await tx.one(_renew, seen=seen)


def limits(row: Row) -> Limits:
    """Give the limits in the units of the windows."""
    return windows.in_units({name: row[name] for name in NAMES})


def check(row: Row, provider_id: str, *, kind: str) -> None:
    """Raise unless the caller may use this provider in this tenant."""
    if not row["ai_enabled"]:
        raise AiDisabled
    if not is_allowed(row, provider_id, kind=kind):
        raise ProviderNotAllowed(provider_id)


def is_allowed(row: Row, provider_id: str, *, kind: str) -> bool:
    """Say whether the caller's role may use a provider."""
    role = Role.Name(calls.caller().role if kind == "user" else Role.ROLE_USER)
    named = [entry for entry in row["tier_overrides"] if entry["role"] == role]
    return all(provider_id in entry.get("provider_ids", ()) for entry in named)


def prices(row: Row, provider: Row) -> tuple[Decimal, Decimal]:
    """Give the prices of a provider for 1,000 tokens in and out, for this tenant."""
    for entry in row["price_overrides"]:
        if entry["provider_id"] == str(provider["id"]):
            return money.parse(entry.get("input_cost_usd_per_1k", "")), money.parse(
                entry.get("output_cost_usd_per_1k", "")
            )
    return provider["input_cost_usd_per_1k"], provider["output_cost_usd_per_1k"]


async def _check_overrides(tx: Transaction, config: tenant_ai_config_pb2.TenantAiConfig) -> None:
    for name, (_, key) in OVERRIDES.items():
        keys = [getattr(entry, key) for entry in getattr(config, name)]
        if len(set(keys)) < len(keys):
            problem = f"two entries have the same {key}"
            raise faults.RequestInvalid(f"config.{name}: {problem}", violations={f"config.{name}": problem})
    named = {entry.provider_id for entry in config.price_overrides}
    named |= {provider_id for entry in config.tier_overrides for provider_id in entry.provider_ids}
    known = {str(row["id"]) for row in await tx.all(_known, ids=list(named))}
    if unknown := sorted(named - known):
        raise providers.ProviderNotFound(unknown[0])


def _columns(config: tenant_ai_config_pb2.TenantAiConfig) -> dict[str, Any]:
    columns: dict[str, Any] = {name: getattr(config, name) for name in UPDATABLE if name not in (*NAMES, *OVERRIDES)}
    for name in NAMES:
        columns[name] = windows.limit(f"config.{name}", getattr(config, name)) if config.HasField(name) else None
    for name in OVERRIDES:
        columns[name] = [MessageToDict(entry, preserving_proto_field_name=True) for entry in getattr(config, name)]
    return columns


def _wire(row: Mapping[str, Any] | Row) -> tenant_ai_config_pb2.TenantAiConfig:
    config = tenant_ai_config_pb2.TenantAiConfig(
        ai_enabled=row["ai_enabled"],
        platform_key_allowed=row["platform_key_allowed"],
        local_fallback_allowed=row["local_fallback_allowed"],
        etag=updates.etag(row["revision"]),
    )
    for name, (message, _) in OVERRIDES.items():
        getattr(config, name).extend(ParseDict(entry, message()) for entry in row[name])
    for name in NAMES:
        if (value := row[name]) is not None:
            setattr(config, name, money.text(value) if isinstance(value, Decimal) else value)
    if row["revision"]:
        config.update_time.FromDatetime(row["update_time"])
    return config
