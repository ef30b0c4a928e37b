"""Datasets: labelled items, registered by content. A dataset never changes; its digest says which items it holds."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select

from services.kit import calls, canonical, faults, outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import AlreadyExists, InvalidArgument, NotFound
from services.kit.paging import Page
from triptych.experiments.v1 import dataset_pb2, dataset_service_pb2 as pb

table = Table(
    "datasets",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("item_count", Integer, nullable=False),
    Column("created_by", Uuid, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
items = Table(
    "dataset_items",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("dataset_id", Uuid, primary_key=True),
    Column("item_id", Text, primary_key=True),
    Column("content_sha256", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("item_group", Text, nullable=False),
)
_insert = Statement(
    insert(table).values(**params("tenant_id name description digest item_count created_by")).returning(*table.c)
)
# One statement for all items: the arrays are the columns.
_INSERT_ITEMS = (
    "INSERT INTO dataset_items (tenant_id, dataset_id, item_id, content_sha256, label, item_group)"
    " SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::text[], $6::text[])"
)
_get = Statement(select(table).where(table.c.id == param("id")))


class DatasetNotFound(NotFound):
    """No such dataset in the caller's tenant."""

    def __init__(self, dataset_id: str) -> None:
        super().__init__("there is no such dataset", dataset_id=dataset_id)


class DatasetNameTaken(AlreadyExists):
    """A dataset of the tenant has this name."""


class DatasetItemDuplicate(InvalidArgument):
    """Two items have the same id."""


CONSTRAINTS = {"datasets_name": lambda: DatasetNameTaken("a dataset of this name exists; choose another name")}


def normal(request: pb.CreateDatasetRequest) -> list[dataset_pb2.DatasetItem]:
    """Give the items in order of their ids, texts in NFC; two of one id are refused."""
    found = sorted((_normal(item) for item in request.items), key=lambda item: item.item_id)
    twice = [item_id for item_id, times in Counter(item.item_id for item in found).items() if times > 1]
    if twice:
        raise DatasetItemDuplicate(f"two items are called {twice[0]}; item ids are unique", item_id=twice[0])
    return found


def digest(found: Sequence[dataset_pb2.DatasetItem]) -> str:
    """Give the digest of items in order."""
    rows = [[item.item_id, item.content_sha256, item.label, item.group] for item in found]
    return canonical.digest("triptych.dataset.v1", rows).hex()


async def create(tx: Transaction, request: pb.CreateDatasetRequest) -> pb.CreateDatasetResponse:
    """Store a dataset with all of its items."""
    found = normal(request)
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        name=request.dataset.name,
        description=request.dataset.description,
        digest=digest(found),
        item_count=len(found),
        created_by=calls.caller().id,
    )
    columns = zip(*((item.item_id, item.content_sha256, item.label, item.group) for item in found), strict=True)
    await tx.connection.execute(_INSERT_ITEMS, tx.tenant_id, row["id"], *columns)
    dataset = _wire(row)
    await outbox.record(tx, f"dataset:{dataset.id}", dataset)
    return pb.CreateDatasetResponse(dataset=dataset)


async def get(tx: Transaction, dataset_id: str) -> dataset_pb2.Dataset:
    """Give one dataset."""
    row = await tx.one(_get, id=dataset_id)
    if row is None:
        raise DatasetNotFound(dataset_id)
    return _wire(row)


async def page(tx: Transaction, page: Page) -> pb.ListDatasetsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListDatasetsResponse(datasets=[_wire(row) for row in rows], next_page_token=token)


async def page_items(tx: Transaction, request: pb.ListDatasetItemsRequest, page: Page) -> pb.ListDatasetItemsResponse:
    """Give one page of a dataset's items, in order of their ids."""
    await get(tx, request.dataset_id)
    query = select(items).where(items.c.dataset_id == param("dataset_id"))
    if page.after is not None:
        query = query.where(items.c.item_id > page.after[0])
    found = await tx.all(query.order_by(items.c.item_id).limit(page.limit), dataset_id=request.dataset_id)
    rows, token = page.end(found, key=lambda row: (row["item_id"],))
    return pb.ListDatasetItemsResponse(items=[_item(row) for row in rows], next_page_token=token)


def _normal(item: dataset_pb2.DatasetItem) -> dataset_pb2.DatasetItem:
    if "\0" in item.item_id + item.label + item.group:
        raise faults.RequestInvalid("strings must not contain the character U+0000")
    return dataset_pb2.DatasetItem(
        item_id=unicodedata.normalize("NFC", item.item_id),
        content_sha256=item.content_sha256,
        label=unicodedata.normalize("NFC", item.label),
        group=unicodedata.normalize("NFC", item.group),
    )


def _item(row: Row) -> dataset_pb2.DatasetItem:
    return dataset_pb2.DatasetItem(
        item_id=row["item_id"],
        content_sha256=row["content_sha256"],
        label=row["label"],
        group=row["item_group"],
    )


def _wire(row: Row) -> dataset_pb2.Dataset:
    return dataset_pb2.Dataset(
        id=str(row["id"]),
        name=row["name"],
        description=row["description"],
        digest=row["digest"],
        item_count=row["item_count"],
        created_by=str(row["created_by"]),
        create_time=row["create_time"],
    )
