"""Records of use that nobody reserved: charged once for each id, in whichever requests they come, beyond limits too."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import func, select

from services.kit import faults, outbox
from services.kit.db import Row, Statement, Transaction, param
from services.kit.faults import InvalidArgument
from services.providers import alerts, configs, epochs, ledgers, money, owners, providers, quotas, sweeps
from services.providers.ledgers import events
from services.providers.owners import Owner
from services.providers.settlements import Charge
from services.providers.windows import Want
from triptych.providers.v1 import usage_pb2, usage_service_pb2 as pb

Given: TypeAlias = Mapping[str, usage_pb2.UsageRecord]
"""Records by their ids."""
_existing = Statement(
    select(
        events.c.record_id, events.c.provider_id, events.c.operation, events.c.input_tokens, events.c.output_tokens
    ).where(owners.owned(events), events.c.record_id == func.any(param("ids")))
)
# One statement prices and writes them all, and adds up what is new; what is there already is left as it is. Costs are
# rounded up as `money` does it.
_INSERT = """
WITH inserted AS (
    INSERT INTO usage_events (tenant_id, owner_kind, owner_id, day, record_id, operation, input_tokens, output_tokens,
                              provider_id, model_name, price_version_id, cost_usd, cost_nano)
    SELECT $1, $2, $3, $4, g.record_id, g.operation, g.input_tokens, g.output_tokens,
           p.provider_id, p.model_name, p.price_version_id, c.cost, ceil(c.cost * 1000000000)
    FROM unnest($5::uuid[], $6::text[], $7::bigint[], $8::bigint[], $9::uuid[])
         AS g (record_id, operation, input_tokens, output_tokens, provider_id)
    JOIN unnest($10::uuid[], $11::text[], $12::uuid[], $13::numeric[], $14::numeric[])
         AS p (provider_id, model_name, price_version_id, input_price, output_price) USING (provider_id)
    CROSS JOIN LATERAL (
        SELECT ceil((g.input_tokens * p.input_price + g.output_tokens * p.output_price) * 1000000000)
               / 1000000000000 AS cost) c
    ON CONFLICT (tenant_id, owner_kind, owner_id, record_id) WHERE record_id IS NOT NULL DO NOTHING
    RETURNING record_id, provider_id, model_name, input_tokens, output_tokens, cost_usd, cost_nano)
SELECT provider_id, model_name, count(*) AS request_count, array_agg(record_id) AS ids,
       sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
       sum(cost_usd) AS cost_usd, sum(cost_nano)::bigint AS cost_nano
FROM inserted GROUP BY provider_id, model_name ORDER BY provider_id
"""


class UsageRecordReused(InvalidArgument):
    """The id was used before with other contents."""

    def __init__(self, record_id: str) -> None:
        super().__init__("a record with this id and other contents was charged; take a new id", id=record_id)


class _Source(NamedTuple):
    """A provider that was used, and its prices of today."""

    id: UUID
    model_name: str
    price_version_id: UUID
    input_price: Decimal
    output_price: Decimal


async def record(tx: Transaction, request: pb.RecordUsageRequest, *, charges: list[Charge]) -> pb.RecordUsageResponse:
    """Charge the records that are new; `charges` gets what the counters must be told."""
    owner, given = owners.caller(), _distinct(request.records)
    sources = await _sources(tx, given)
    quota = await quotas.lock(tx, owner)  # two requests at once see each other; the lock is held as short as can be
    day = quota["now"].date()
    new = await _insert(tx, owner, day, given, sources)
    if new:
        await ledgers.add(tx, [_rolled_up(tx, owner, day, row) for row in new])
        used = await ledgers.sums(tx, owner, day)
        await alerts.raise_crossed(tx, owner, quotas.limits(quota), used, day)
        charges.append(await _charge(tx, owner, new))
    recorded = sum(row["request_count"] for row in new)
    answer = pb.RecordUsageResponse(
        recorded=recorded,
        repeated_before=len(request.records) - recorded,
        cost_usd=money.text(sum((row["cost_usd"] for row in new), Decimal(0))),
    )
    await outbox.record(tx, f"usage:{owner}", answer)
    return answer


def _distinct(records: Sequence[usage_pb2.UsageRecord]) -> Given:
    """Give each id once; one that stands there twice must say the same twice."""
    found: dict[str, usage_pb2.UsageRecord] = {}
    for one in records:
        if found.setdefault(one.id, one) != one:
            raise UsageRecordReused(one.id)
    return found


async def _sources(tx: Transaction, given: Given) -> list[_Source]:
    """Give the providers at today's prices, and refuse what would cost more than can be counted."""
    config, total, sources = await configs.see(tx), Decimal(0), []
    tokens: dict[str, tuple[int, int]] = {}
    for one in given.values():
        before = tokens.get(one.provider_id, (0, 0))
        tokens[one.provider_id] = (before[0] + one.input_tokens, before[1] + one.output_tokens)
    for provider_id, (came, went) in tokens.items():
        provider = await providers.row(tx, provider_id)
        prices = configs.prices(config, provider)
        total += money.cost(came, went, *prices)
        sources.append(_Source(provider["id"], provider["model_name"], provider["price_version_id"], *prices))
    if total > money.LARGEST:
        raise faults.RequestInvalid(
            f"these records would cost {money.text(total)} USD; one request may cost {money.LARGEST} USD: split it",
            cost_usd=money.text(total),
        )
    return sources


async def _insert(tx: Transaction, owner: Owner, day: date, given: Given, sources: Sequence[_Source]) -> list[Row]:
    """Write those that are new and give their sums by provider; the others must be what they were."""
    records = given.values()
    columns = [
        list(given),
        [one.operation for one in records],
        [one.input_tokens for one in records],
        [one.output_tokens for one in records],
        [one.provider_id for one in records],
        *map(list, zip(*sources, strict=True)),
    ]
    rows: list[Row] = await tx.connection.fetch(_INSERT, tx.tenant_id, owner.kind, owner.id, day, *columns)
    written = {str(record_id) for row in rows for record_id in row["ids"]}
    await _check_same(tx, owner, [one for one in records if one.id not in written])
    return rows


async def _check_same(tx: Transaction, owner: Owner, repeated: Sequence[usage_pb2.UsageRecord]) -> None:
    if not repeated:
        return
    rows = await tx.all(_existing, **owner.columns, ids=[one.id for one in repeated])
    before = {str(row["record_id"]): row for row in rows}
    for one in repeated:
        row = before[one.id]
        was = (str(row["provider_id"]), row["operation"], row["input_tokens"], row["output_tokens"])
        if was != (one.provider_id, one.operation, one.input_tokens, one.output_tokens):
            raise UsageRecordReused(one.id)


def _rolled_up(tx: Transaction, owner: Owner, day: date, row: Row) -> dict[str, Any]:
    names = ("provider_id", "model_name", "request_count", "input_tokens", "output_tokens", "cost_usd", "cost_nano")
    return {"tenant_id": tx.tenant_id, **owner.columns, "date": day} | {name: row[name] for name in names}


async def _charge(tx: Transaction, owner: Owner, new: Sequence[Row]) -> Charge:
    tokens = sum(row["input_tokens"] + row["output_tokens"] for row in new)
    used = Want(tokens, sum(row["cost_nano"] for row in new))
    charge_id = await sweeps.charge(tx, owner)
    accounts, budget = await epochs.share(tx, owner)
    return Charge(accounts, charge_id, sum(row["request_count"] for row in new), used, budget, accounts.own.day)
