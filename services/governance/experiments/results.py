"""Results: what each arm said about each item. The first result stands, and the label says whether it was right."""

import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import Boolean, Column, Double, MetaData, Numeric, Table, Text, Uuid, func, select
from sqlalchemy.dialects.postgresql import JSONB

from services.governance.experiments import experiments
from services.governance.experiments.words import ARMS
from services.kit import canonical, faults, outbox, updates
from services.kit.db import Row, Statement, Transaction, param
from services.kit.faults import AlreadyExists, InvalidArgument
from services.kit.paging import Page
from triptych.experiments.v1 import experiment_pb2, experiment_service_pb2 as pb

LARGEST_DETAILS = 16 * 1024
PRODUCTION = experiment_pb2.ARM_PRODUCTION

table = Table(
    "item_results",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("experiment_id", Uuid, primary_key=True),
    Column("item_id", Text, primary_key=True),
    Column("arm", Text, primary_key=True),
    Column("answer", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("latency_ms", Double, nullable=False),
    Column("cost_usd", Numeric(20, 12), nullable=False),
    Column("details", JSONB, nullable=False),
    Column("correct", Boolean, nullable=False),
)
_GIVEN = "unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], $9::numeric[], $10::jsonb[])"
# All results in one statement; joined with the items, so that an unknown item is simply not there.
_INSERT = (
    "INSERT INTO item_results (tenant_id, experiment_id, dataset_id, item_id, arm, answer, error, latency_ms, cost_usd,"
    " details, correct)"
    " SELECT $1, $2, $3, g.item_id, g.arm, g.answer, g.error, g.latency_ms, g.cost_usd, g.details, g.answer = i.label"
    f" FROM {_GIVEN} AS g (item_id, arm, answer, error, latency_ms, cost_usd, details)"
    " JOIN dataset_items i ON i.dataset_id = $3 AND i.item_id = g.item_id"
    " ON CONFLICT DO NOTHING"
)
# What was given and is not what is stored: an unknown item (nothing stored), or another answer.
_DIFFERENT = (
    "SELECT g.item_id, g.arm, r.item_id IS NOT NULL AS known"
    " FROM unnest($2::text[], $3::text[], $4::text[]) AS g (item_id, arm, answer)"
    " LEFT JOIN item_results r ON r.experiment_id = $1 AND r.item_id = g.item_id AND r.arm = g.arm"
    " WHERE r.item_id IS NULL OR r.answer <> g.answer LIMIT 1"
)
_tally = Statement(
    select(func.count().label("all"), func.count().filter(table.c.answer != "").label("answered")).where(
        table.c.experiment_id == param("experiment_id"), table.c.arm == "candidate"
    )
)


class ItemUnknown(InvalidArgument):
    """The dataset has no such item."""


class ResultConflict(AlreadyExists):
    """Another answer is recorded for this item and arm."""


async def record(tx: Transaction, request: pb.RecordResultsRequest) -> pb.RecordResultsResponse:
    """Record results of a running experiment."""
    row = await experiments.lock(tx, request.experiment_id)
    experiments.demand(row, "running")
    _check(request.results, with_production=row["production_version_id"] is not None)
    columns = _columns(request.results)
    status = await tx.connection.execute(_INSERT, tx.tenant_id, row["id"], row["dataset_id"], *columns)
    different = await tx.connection.fetchrow(_DIFFERENT, row["id"], *columns[:3])
    if different is not None:
        raise _difference(different)
    recorded = int(status.rpartition(" ")[2])
    experiment = experiments.wire(row) if not recorded else await experiments.count(tx, row["id"], recorded)
    facts = {"recorded_count": recorded, "result_count": experiment.result_count}
    await outbox.record(tx, f"experiment:{experiment.id}", facts)
    return pb.RecordResultsResponse(recorded_count=recorded, experiment=experiment)


async def page(tx: Transaction, request: pb.ListResultsRequest, page: Page) -> pb.ListResultsResponse:
    """Give one page, in order of item and arm."""
    await experiments.row_of(tx, request.experiment_id)
    query = select(table).where(table.c.experiment_id == request.experiment_id)
    if request.only_incorrect:
        query = query.where(~table.c.correct)
    if page.after is not None:
        item_id, arm = page.after
        query = query.where((table.c.item_id > item_id) | ((table.c.item_id == item_id) & (table.c.arm > arm)))
    found = await tx.all(query.order_by(table.c.item_id, table.c.arm).limit(page.limit))
    rows, token = page.end(found, key=lambda row: (row["item_id"], row["arm"]))
    return pb.ListResultsResponse(results=[_wire(row) for row in rows], next_page_token=token)


async def complete(tx: Transaction, request: pb.CompleteExperimentRequest) -> pb.CompleteExperimentResponse:
    """End an experiment whose results are in. One that answered nothing at all could not be run: it failed."""
    row = await experiments.lock(tx, request.experiment_id)
    updates.check_etag(request.etag, row["revision"])
    experiments.demand(row, "running")
    tally = await tx.only(_tally, experiment_id=row["id"])
    if not tally["all"]:
        raise experiments.ExperimentWithoutResults("no result of the candidate is recorded; record results first")
    if tally["answered"]:
        experiment = await experiments.end(tx, row["id"], to_state="completed")
    else:
        reason = f"the candidate answered none of {tally['all']} items"
        experiment = await experiments.end(tx, row["id"], to_state="failed", reason=reason)
    await outbox.record(tx, f"experiment:{experiment.id}", experiments.summary(experiment))
    return pb.CompleteExperimentResponse(experiment=experiment)


def _check(given: Sequence[experiment_pb2.ItemResult], *, with_production: bool) -> None:
    """Refuse what the shape in the proto cannot say."""
    for index, result in enumerate(given):
        if not result.answer and not result.error:
            _refuse(f"results[{index}].error", "say why there is no answer")
        if len(orjson.dumps(canonical.plain(result.details))) > LARGEST_DETAILS:
            _refuse(f"results[{index}].details", f"at most {LARGEST_DETAILS} bytes as JSON")
        if result.arm == PRODUCTION and not with_production:
            _refuse(f"results[{index}].arm", "nothing was in production when the experiment started")


def _refuse(path: str, text: str) -> None:
    raise faults.RequestInvalid(f"{path}: {text}", violations={path: text}, fields=path)


def _columns(given: Sequence[experiment_pb2.ItemResult]) -> list[list[Any]]:
    rows = [
        (
            unicodedata.normalize("NFC", result.item_id),
            ARMS.word(result.arm),
            unicodedata.normalize("NFC", result.answer),
            result.error,
            result.latency_ms,
            Decimal(result.cost_usd or "0"),
            canonical.plain(result.details),
        )
        for result in given
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _difference(row: Row) -> faults.Fault:
    if not row["known"]:
        text = f"the dataset has no item {row['item_id']}; correct item_id"
        return ItemUnknown(text, item_id=row["item_id"])
    text = f"another answer is recorded for item {row['item_id']}, and the first stands"
    return ResultConflict(text, item_id=row["item_id"], arm=row["arm"])


def _wire(row: Row) -> experiment_pb2.ItemResult:
    result = experiment_pb2.ItemResult(
        item_id=row["item_id"],
        arm=ARMS.number(row["arm"]),
        answer=row["answer"],
        error=row["error"],
        latency_ms=row["latency_ms"],
        cost_usd=_decimal(row["cost_usd"]),
        correct=row["correct"],
    )
    result.details.update(row["details"])
    return result


def _decimal(value: Decimal) -> str:
    """Write a cost without exponent and without zeros that say nothing."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
