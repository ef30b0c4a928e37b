"""Changes of the catalogue: a provider's fields, its prices, its end. What was used is never charged anew.

Keys are bound to the host that they were stored for, and were proven at one port of it, so both stay while anybody has
a key there.
"""

from sqlalchemy import func, select, update

from services.kit import outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import FailedPrecondition
from services.providers import keys, prices, providers
from services.providers.providers import ProviderArchived, ProviderNotFound, table
from triptych.providers.v1 import provider_pb2, provider_service_pb2 as pb

UPDATABLE = ("name", "model_name", "api_endpoint", "active", "platform_provided", "max_tokens", "timeout_seconds")
_lock = Statement(select(table.c.id).where(table.c.id == param("id")).with_for_update())
_changed = {"revision": table.c.revision + 1, "update_time": func.now()}
_update = Statement(
    update(table)
    .where(table.c.id == param("provider_id"))
    .values(**params(" ".join((*UPDATABLE, "destination_host"))), **_changed)
)
_archive = Statement(
    update(table)
    .where(table.c.id == param("provider_id"), table.c.archive_time.is_(None))
    .values(active=False, archive_time=func.now(), **_changed)
)
_touch = Statement(update(table).where(table.c.id == param("provider_id")).values(**_changed))
_has_keys = Statement(
    select(keys.table.c.id).where(keys.table.c.provider_id == param("provider_id"), keys.unended).limit(1)
)


class ProviderHostInUse(FailedPrecondition):
    """Somebody has a key for the provider's host and port."""


async def revise(
    tx: Transaction, request: pb.UpdateProviderRequest, *, allow_loopback: bool
) -> pb.UpdateProviderResponse:
    """Change what the mask names."""
    row = await _hold_live(tx, updates.target(request, "provider"), request.provider.etag)
    merged = updates.merge(providers.wire(row), request.provider, request.update_mask, UPDATABLE)
    host = providers.host(row["type"], merged.api_endpoint, allow_loopback=allow_loopback)
    old_host, old_port = old = providers.destination(row["api_endpoint"])
    if providers.destination(merged.api_endpoint) != old and await tx.one(_has_keys, provider_id=row["id"]) is not None:
        raise ProviderHostInUse(
            f"there are keys for {old_host}, port {old_port}: add another provider, or have them revoked first",
            host=old_host,
            port=old_port,
        )
    fields = {name: getattr(merged, name) for name in UPDATABLE}
    await tx.run(_update, provider_id=row["id"], destination_host=host, **fields)
    provider = await _recorded(tx, row)
    return pb.UpdateProviderResponse(provider=provider)


async def archive(tx: Transaction, request: pb.ArchiveProviderRequest) -> pb.ArchiveProviderResponse:
    """Archive a provider; one that is archived stays as it is."""
    row = await _hold(tx, request.provider_id, request.etag)
    await tx.run(_archive, provider_id=row["id"])
    return pb.ArchiveProviderResponse(provider=await _recorded(tx, row))


async def price(tx: Transaction, request: pb.SetProviderPriceRequest) -> pb.SetProviderPriceResponse:
    """Add a version of prices."""
    row = await _hold_live(tx, request.provider_id, request.etag)
    await prices.insert_version(tx, row["id"], request)
    await tx.run(_touch, provider_id=row["id"])
    provider = await _recorded(tx, row)
    return pb.SetProviderPriceResponse(provider=provider, price_version=await prices.current(tx, row["id"]))


async def _recorded(tx: Transaction, row: Row) -> provider_pb2.Provider:
    provider = await providers.get(tx, str(row["id"]))
    await outbox.record(tx, f"provider:{provider.id}", provider)
    return provider


async def _hold_live(tx: Transaction, provider_id: str, etag: str) -> Row:
    row = await _hold(tx, provider_id, etag)
    if row["archive_time"] is not None:
        raise ProviderArchived(provider_id)
    return row


async def _hold(tx: Transaction, provider_id: str, etag: str) -> Row:
    """Give the row of a provider, locked until the transaction ends: who stores a key for it waits."""
    if await tx.one(_lock, id=provider_id) is None:
        raise ProviderNotFound(provider_id)
    row = await providers.row(tx, provider_id)
    updates.check_etag(etag, row["revision"])
    return row
