"""Records of use that nobody reserved: charged once for each id, in whichever requests they come, beyond limits too."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple, TypeAlias
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
# One statement prices them all, writes what is new and adds it to the roll-up, and tells what was there already. Costs
# are rounded up as `money` does it.
_INSERT = """
WITH given AS MATERIALIZED (
    SELECT g.record_id, g.input_tokens, g.output_tokens, k.operation, k.provider_id, k.model_name, k.price_version_id,
           ceil((g.input_tokens * k.input_price + g.output_tokens * k.output_price) * 1000000000) AS pico
    FROM unnest($5::uuid[], $6::bigint[], $7::bigint[], $8::integer[])
         AS g (record_id, input_tokens, output_tokens, place)
    JOIN unnest($9::integer[], $10::text[], $11::uuid[], $12::text[], $13::uuid[], $14::numeric[], $15::numeric[])
         AS k (place, operation, provider_id, model_name, price_version_id, input_price, output_price) USING (place)),
inserted AS (
    INSERT INTO usage_events (tenant_id, owner_kind, owner_id, day, record_id, operation, input_tokens, output_tokens,
                              provider_id, model_name, price_version_id, cost_usd, cost_nano)
    SELECT $1, $2, $3, $4, record_id, operation, input_tokens, output_tokens,
           provider_id, model_name, price_version_id, pico * 0.000000000001, ceil(pico * 0.001)
    FROM given
    ON CONFLICT (tenant_id, owner_kind, owner_id, record_id) WHERE record_id IS NOT NULL DO NOTHING
    RETURNING record_id, provider_id, model_name, input_tokens, output_tokens, cost_usd, cost_nano),
added AS (
    SELECT provider_id, model_name, count(*) AS request_count,
           sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(cost_usd) AS cost_usd, sum(cost_nano)::bigint AS cost_nano
    FROM inserted GROUP BY provider_id, model_name),
rolled_up AS (
    INSERT INTO usage_tracking AS t (tenant_id, owner_kind, owner_id, date, provider_id, model_name, request_count,
                                     input_tokens, output_tokens, cost_usd, cost_nano)
    SELECT $1, $2, $3, $4, provider_id, model_name, request_count, input_tokens, output_tokens, cost_usd, cost_nano
    FROM added
    ON CONFLICT (tenant_id, owner_kind, owner_id, date, provider_id, model_name) DO UPDATE
    SET request_count = t.request_count + excluded.request_count, input_tokens = t.input_tokens + excluded.input_tokens,
        output_tokens = t.output_tokens + excluded.output_tokens, cost_usd = t.cost_usd + excluded.cost_usd,
        cost_nano = t.cost_nano + excluded.cost_nano)
SELECT coalesce(sum(request_count), 0)::bigint AS requests,
       coalesce(sum(input_tokens + output_tokens), 0)::bigint AS tokens,
       coalesce(sum(cost_usd), 0) AS cost_usd, coalesce(sum(cost_nano), 0)::bigint AS cost_nano,
       ARRAY(SELECT record_id FROM given EXCEPT SELECT record_id FROM inserted) AS repeated
FROM added
"""


class UsageRecordReused(InvalidArgument):
    """The id was used before with other contents."""

    def __init__(self, record_id: str) -> None:
        super().__init__("a record with this id and other contents was charged; take a new id", id=record_id)


class _Kind(NamedTuple):
    """What many records share: a provider that was used, what for, and its prices of today."""

    place: int
    operation: str
    provider_id: UUID
    model_name: str
    price_version_id: UUID
    input_price: Decimal
    output_price: Decimal


class _Columns(NamedTuple):
    """Records as the database takes them: it is told once what many have in common."""

    ids: list[str]
    input_tokens: list[int]
    output_tokens: list[int]
    places: list[int]
    """Where among the kinds that of each record stands."""
    kinds: list[tuple[str, str]]
    """Provider and operation."""

    @property
    def tokens(self) -> dict[str, tuple[int, int]]:
        """Give what came and went in all, by provider."""
        sums = [[0, 0] for _ in self.kinds]
        for place, came, went in zip(self.places, self.input_tokens, self.output_tokens, strict=True):
            both = sums[place]
            both[0] += came
            both[1] += went
        found: dict[str, tuple[int, int]] = {}
        for (provider_id, _), (came, went) in zip(self.kinds, sums, strict=True):
            before = found.get(provider_id, (0, 0))
            found[provider_id] = (before[0] + came, before[1] + went)
        return found


async def record(tx: Transaction, request: pb.RecordUsageRequest, *, charges: list[Charge]) -> pb.RecordUsageResponse:
    """Charge the records that are new; `charges` gets what the counters must be told."""
    owner, given = owners.caller(), _distinct(request.records)
    columns = _columns(given)
    kinds = await _kinds(tx, columns)
    quota = await quotas.lock(tx, owner)  # two requests at once see each other; the lock is held as short as can be
    day = quota["now"].date()
    new = await _insert(tx, (owner.kind, owner.id, day), columns, kinds)
    await _check_same(tx, owner, [given[str(each)] for each in new["repeated"]])
    if new["requests"]:
        used = await ledgers.sums(tx, owner, day)
        await alerts.raise_crossed(tx, owner, quotas.limits(quota), used, day)
        charges.append(await _charge(tx, owner, quota, new))
    answer = pb.RecordUsageResponse(
        recorded=new["requests"],
        repeated_before=len(request.records) - new["requests"],
        cost_usd=money.text(new["cost_usd"]),
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


def _columns(given: Given) -> _Columns:
    places: dict[tuple[str, str], int] = {}
    records = given.values()
    return _Columns(
        list(given),
        [one.input_tokens for one in records],
        [one.output_tokens for one in records],
        [places.setdefault((one.provider_id, one.operation), len(places)) for one in records],
        list(places),
    )


async def _kinds(tx: Transaction, columns: _Columns) -> list[_Kind]:
    """Give the providers at today's prices, and refuse what would cost more than can be counted."""
    config, total, sources = await configs.see(tx), Decimal(0), {}
    for provider_id, (came, went) in columns.tokens.items():
        provider = await providers.row(tx, provider_id)
        prices = configs.prices(config, provider)
        total += money.cost(came, went, *prices)
        sources[provider_id] = (provider["id"], provider["model_name"], provider["price_version_id"], *prices)
    if total > money.LARGEST:
        raise faults.RequestInvalid(
            f"these records would cost {money.text(total)} USD; one request may cost {money.LARGEST} USD: split it",
            cost_usd=money.text(total),
        )
    return [
        _Kind(place, operation, *sources[provider_id]) for place, (provider_id, operation) in enumerate(columns.kinds)
    ]


async def _insert(tx: Transaction, where: tuple[str, str, date], columns: _Columns, kinds: Sequence[_Kind]) -> Row:
    """Write those that are new; give their sums, and the ids of the others."""
    given = (*columns[:4], *map(list, zip(*kinds, strict=True)))
    rows: list[Row] = await tx.connection.fetch(_INSERT, tx.tenant_id, *where, *given)
    return rows[0]


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


async def _charge(tx: Transaction, owner: Owner, quota: Row, new: Row) -> Charge:
    charge_id = await sweeps.charge(tx, owner)
    accounts, budget = await epochs.share(tx, owner, epoch=quota["epoch"])
    used = Want(new["tokens"], new["cost_nano"])
    return Charge(accounts, charge_id, new["requests"], used, budget, accounts.own.day)
