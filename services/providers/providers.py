"""The catalogue of providers: the row, its wire form, its queries and its faults."""

from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select
from sqlalchemy.sql import literal

from services.kit import outbox, updates
from services.kit.db import Constraints, Row, Statement, Transaction, param, params
from services.kit.faults import Aborted, AlreadyExists, FailedPrecondition, NotFound
from services.kit.paging import Page
from services.providers import endpoints, money, prices
from services.providers.words import TYPES
from triptych.providers.v1 import provider_pb2, provider_service_pb2 as pb

LOCAL = "local"

table = Table(
    "providers",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("api_endpoint", Text, nullable=False),
    Column("destination_host", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("platform_provided", Boolean, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("timeout_seconds", Integer, nullable=False),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("archive_time", DateTime(timezone=True)),
)
_price = prices.newest(table)
priced = select(
    table,
    _price.c.id.label("price_version_id"),
    _price.c.input_cost_usd_per_1k,
    _price.c.output_cost_usd_per_1k,
).join(_price, literal(value=True))
"""Providers with their newest prices."""
_insert = Statement(
    insert(table)
    .values(
        **params(
            "tenant_id name type model_name api_endpoint destination_host platform_provided max_tokens timeout_seconds"
        )
    )
    .returning(table.c.id)
)
_get = Statement(priced.where(table.c.id == param("id")))
_same = Statement(select(table).where(table.c.id == param("id")).with_for_update(read=True))


class ProviderNotFound(NotFound):
    """No such provider in the caller's tenant."""

    def __init__(self, provider_id: str) -> None:
        super().__init__("there is no such provider", provider_id=provider_id)


class ProviderNameTaken(AlreadyExists):
    """A provider of the tenant has this name."""


class ProviderInactive(FailedPrecondition):
    """The provider is switched off."""

    def __init__(self, provider_id: str) -> None:
        super().__init__("the provider is switched off; use another", provider_id=provider_id)


class ProviderArchived(FailedPrecondition):
    """The provider is archived, for good."""

    def __init__(self, provider_id: str) -> None:
        super().__init__("the provider is archived; use another", provider_id=provider_id)


class ProviderChanged(Aborted):
    """The provider changed while a key was being proven there."""


CONSTRAINTS: Constraints = {
    "providers_name": lambda: ProviderNameTaken("a provider of this name exists; choose another name")
}


async def create(
    tx: Transaction, request: pb.CreateProviderRequest, *, allow_loopback: bool
) -> pb.CreateProviderResponse:
    """Store a provider and its prices."""
    given = request.provider
    kind = TYPES.word(given.type)
    made = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        name=given.name,
        type=kind,
        model_name=given.model_name,
        api_endpoint=given.api_endpoint,
        destination_host=host(kind, given.api_endpoint, allow_loopback=allow_loopback),
        platform_provided=given.platform_provided,
        max_tokens=given.max_tokens,
        timeout_seconds=given.timeout_seconds,
    )
    await prices.insert_version(tx, made["id"], given)
    provider = await get(tx, str(made["id"]))
    await outbox.record(tx, f"provider:{provider.id}", provider)
    return pb.CreateProviderResponse(provider=provider)


async def get(tx: Transaction, provider_id: str) -> provider_pb2.Provider:
    """Give one provider."""
    return wire(await row(tx, provider_id))


async def page(tx: Transaction, request: pb.ListProvidersRequest, page: Page) -> pb.ListProvidersResponse:
    """Give one page, in order of name."""
    query = priced.order_by(table.c.name).limit(page.limit)
    if not request.show_archived:
        query = query.where(table.c.archive_time.is_(None))
    if page.after is not None:
        query = query.where(table.c.name > page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["name"],))
    return pb.ListProvidersResponse(providers=[wire(row) for row in rows], next_page_token=token)


async def row(tx: Transaction, provider_id: str) -> Row:
    """Give the row of a provider with its newest prices."""
    found = await tx.one(_get, id=provider_id)
    if found is None:
        raise ProviderNotFound(provider_id)
    return found


def check_usable(row: Row, provider_id: str) -> None:
    """Raise unless the row says that the provider may be used."""
    if row["archive_time"] is not None:
        raise ProviderArchived(provider_id)
    if not row["active"]:
        raise ProviderInactive(provider_id)


async def check_same(tx: Transaction, seen: Row) -> None:
    """Raise unless a provider is still usable and where it was, and keep it so until the transaction ends."""
    now = await tx.only(_same, id=seen["id"])
    check_usable(now, str(seen["id"]))
    if now["type"] != seen["type"] or destination(now["api_endpoint"]) != destination(seen["api_endpoint"]):
        raise ProviderChanged("the provider was changed meanwhile; try again", provider_id=seen["id"])


def destination(endpoint: str) -> tuple[str, int]:
    """Give host and port of an endpoint that was accepted once; another server may listen at another port of a host."""
    if not endpoint:
        return "", 0
    checked = endpoints.parse(endpoint, allow_loopback=True)  # whether it is allowed was asked when it came
    return checked.host, checked.port


def host(kind: str, endpoint: str, *, allow_loopback: bool) -> str:
    """Give the host that keys for this provider may be sent to."""
    if kind != LOCAL:
        return endpoints.parse(endpoint, allow_loopback=allow_loopback).host
    if endpoint:
        raise endpoints.EndpointRefused("a local provider has none")
    return ""


def wire(row: Row) -> provider_pb2.Provider:
    """Write a provider with its newest prices."""
    return provider_pb2.Provider(
        id=str(row["id"]),
        name=row["name"],
        type=TYPES.number(row["type"]),
        model_name=row["model_name"],
        api_endpoint=row["api_endpoint"],
        active=row["active"],
        platform_provided=row["platform_provided"],
        input_cost_usd_per_1k=money.text(row["input_cost_usd_per_1k"]),
        output_cost_usd_per_1k=money.text(row["output_cost_usd_per_1k"]),
        max_tokens=row["max_tokens"],
        timeout_seconds=row["timeout_seconds"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        archive_time=row["archive_time"],
        etag=updates.etag(row["revision"]),
    )
