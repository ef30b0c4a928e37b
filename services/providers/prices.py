"""Prices of providers, in versions: a new price takes the place of the old one and changes nothing of what was used."""

from typing import Any

from sqlalchemy import Column, DateTime, MetaData, Numeric, Table, Uuid, func, insert, select

from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from services.providers import money
from triptych.providers.v1 import provider_pb2, provider_service_pb2 as pb

table = Table(
    "price_versions",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("provider_id", Uuid, nullable=False),
    Column("input_cost_usd_per_1k", Numeric(20, 12), nullable=False),
    Column("output_cost_usd_per_1k", Numeric(20, 12), nullable=False),
    Column("effective_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    implicit_returning=False,
)
_insert = Statement(
    insert(table).values(**params("tenant_id provider_id input_cost_usd_per_1k output_cost_usd_per_1k"))
)
_newest = Statement(
    select(table).where(table.c.provider_id == param("provider_id")).order_by(table.c.id.desc()).limit(1)
)


async def insert_version(
    tx: Transaction, provider_id: object, given: provider_pb2.Provider | pb.SetProviderPriceRequest
) -> None:
    """Store the prices of a provider as its newest version."""
    await tx.run(
        _insert,
        tenant_id=tx.tenant_id,
        provider_id=provider_id,
        input_cost_usd_per_1k=money.parse(given.input_cost_usd_per_1k),
        output_cost_usd_per_1k=money.parse(given.output_cost_usd_per_1k),
    )


async def current(tx: Transaction, provider_id: object) -> provider_pb2.PriceVersion:
    """Give the newest version of a provider's prices."""
    return _wire(await tx.only(_newest, provider_id=provider_id))


async def page(tx: Transaction, request: pb.ListProviderPricesRequest, page: Page) -> pb.ListProviderPricesResponse:
    """Give one page of the prices that a provider had, newest first."""
    query = select(table).where(table.c.provider_id == request.provider_id).order_by(table.c.id.desc())
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query.limit(page.limit)), key=lambda row: (row["id"],))
    return pb.ListProviderPricesResponse(price_versions=[_wire(row) for row in rows], next_page_token=token)


def newest(of: Table) -> Any:
    """Give the newest version for each row of a table of providers, to be joined laterally."""
    return (
        select(table.c.id, table.c.input_cost_usd_per_1k, table.c.output_cost_usd_per_1k)
        .where(table.c.tenant_id == of.c.tenant_id, table.c.provider_id == of.c.id)
        .order_by(table.c.id.desc())
        .limit(1)
        .lateral("price")
    )


def _wire(row: Row) -> provider_pb2.PriceVersion:
    return provider_pb2.PriceVersion(
        id=str(row["id"]),
        provider_id=str(row["provider_id"]),
        input_cost_usd_per_1k=money.text(row["input_cost_usd_per_1k"]),
        output_cost_usd_per_1k=money.text(row["output_cost_usd_per_1k"]),
        effective_time=row["effective_time"],
    )
