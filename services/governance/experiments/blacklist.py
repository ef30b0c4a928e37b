"""The blacklist: configurations that failed, by hash.

Whether a hash is blocked stands in `configurations`, and foreign keys of experiments and promotions hang on it: what is
live cannot be blocked, and what is blocked cannot become live.
"""

from typing import Any

from sqlalchemy import Boolean, Column, DateTime, MetaData, Table, Text, Uuid, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert as upsert

from services.governance.experiments.words import REVIEW_STATES
from services.kit import canonical, faults, outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import FailedPrecondition, NotFound
from services.kit.paging import Page
from triptych.experiments.v1 import blacklist_pb2, blacklist_service_pb2 as pb

configurations = Table(
    "configurations",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("configuration_hash", Text, primary_key=True),
    Column("blocked", Boolean, nullable=False, server_default="false"),
)
table = Table(
    "blacklist",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("configuration_hash", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("quarantine_record_id", Uuid, nullable=False),
    Column("quarantined_by", Uuid, nullable=False),
    Column("quarantine_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("review_state", Text, nullable=False, server_default="pending"),
    Column("reviewed_by", Uuid),
    Column("review_time", DateTime(timezone=True)),
)
_entries = select(*table.c, configurations.c.blocked).join(
    configurations,
    (configurations.c.tenant_id == table.c.tenant_id)
    & (configurations.c.configuration_hash == table.c.configuration_hash),
)
_get = Statement(_entries.where(table.c.configuration_hash == param("hash")))
_know = Statement(upsert(configurations).values(**params("tenant_id configuration_hash")).on_conflict_do_nothing())
_lock = Statement(
    select(configurations.c.blocked).where(configurations.c.configuration_hash == param("hash")).with_for_update()
)
_hold = Statement(
    select(configurations.c.blocked)
    .where(configurations.c.configuration_hash == param("hash"))
    .with_for_update(read=True, key_share=True)
)
_set = Statement(
    update(configurations)
    .where(configurations.c.configuration_hash == param("hash"), configurations.c.blocked != param("wanted"))
    .values(blocked=param("wanted"))
)
_WRITTEN = "tenant_id configuration_hash reason evidence quarantine_record_id quarantined_by"
_enter = upsert(table).values(**params(_WRITTEN))
_enter_again = Statement(
    _enter.on_conflict_do_update(
        constraint="blacklist_hash",
        set_={name: _enter.excluded[name] for name in _WRITTEN.split()[2:]}
        | {"quarantine_time": func.now(), "review_state": "pending", "reviewed_by": None, "review_time": None},
    )
)
_review = Statement(
    update(table)
    .where(table.c.configuration_hash == param("hash"))
    .values(review_state=param("state"), reviewed_by=param("reviewer"), review_time=func.now())
)


class ConfigurationBlacklisted(FailedPrecondition):
    """The configuration failed before and is blocked."""

    def __init__(self, configuration_hash: str = "", quarantine_record_id: str = "") -> None:
        super().__init__("this configuration is blacklisted; ask quarantine for a re-evaluation")
        if configuration_hash:
            self.facts = {"configuration_hash": configuration_hash, "quarantine_record_id": quarantine_record_id}


class BlacklistEntryNotFound(NotFound):
    """No such configuration was ever blacklisted in the caller's tenant."""


CONSTRAINTS = {
    "promotions_unblocked": ConfigurationBlacklisted,
    "experiments_unblocked": ConfigurationBlacklisted,
}


async def know(tx: Transaction, configuration_hash: str) -> None:
    """Make sure that foreign keys find the configuration."""
    await tx.run(_know, tenant_id=tx.tenant_id, configuration_hash=configuration_hash)


async def refuse(tx: Transaction, configuration_hash: str) -> None:
    """Raise if the configuration is blocked."""
    row = await tx.one(_get, hash=configuration_hash)
    if row is not None and row["blocked"]:
        raise ConfigurationBlacklisted(configuration_hash, str(row["quarantine_record_id"]))


async def hold(tx: Transaction, configuration_hash: str) -> None:
    """Raise if the configuration is blocked, and let nobody block it until the transaction ends.

    Always taken before the lock of a promotion: blocking takes them in the same order, so neither waits for the other.
    """
    await tx.one(_hold, hash=configuration_hash)
    await refuse(tx, configuration_hash)


async def get(tx: Transaction, configuration_hash: str) -> blacklist_pb2.BlacklistEntry:
    """Give the entry of a configuration."""
    row = await tx.one(_get, hash=configuration_hash)
    if row is None:
        raise BlacklistEntryNotFound("this configuration was never blacklisted", configuration_hash=configuration_hash)
    return _wire(row)


async def page(tx: Transaction, page: Page) -> pb.ListBlacklistEntriesResponse:
    """Give one page, newest first."""
    query = _entries.order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListBlacklistEntriesResponse(entries=[_wire(row) for row in rows], next_page_token=token)


async def enter(tx: Transaction, request: pb.BlockConfigurationRequest) -> bool:
    """Write the entry of a record that was not entered before; the hash is locked until the transaction ends.

    A record that was entered stays as it is, also when a review released it since: a late repetition blocks nothing.
    """
    await know(tx, request.configuration_hash)
    await tx.one(_lock, hash=request.configuration_hash)
    entry = await tx.one(_get, hash=request.configuration_hash)
    if entry is not None and str(entry["quarantine_record_id"]) == request.quarantine_record_id:
        return False
    values: dict[str, Any] = {name: getattr(request, name) for name in _WRITTEN.split()[1:] if name != "evidence"}
    await tx.run(_enter_again, tenant_id=tx.tenant_id, evidence=canonical.plain(request.evidence), **values)
    return True


async def block(tx: Transaction, configuration_hash: str) -> None:
    """Block the hash; the database refuses it while anything that is live hangs on it."""
    await tx.run(_set, hash=configuration_hash, wanted=True)


async def review(tx: Transaction, request: pb.ReviewConfigurationRequest) -> pb.ReviewConfigurationResponse:
    """Store how a re-evaluation ended, and release the configuration if it says so."""
    reviewed = blacklist_pb2.BLACKLIST_REVIEW_STATE_REVIEWED
    if request.release and request.review_state != reviewed:
        text = "only a review that is finished releases; set review_state to REVIEWED"
        raise faults.RequestInvalid(text, violations={"release": text}, fields="release")
    await tx.one(_lock, hash=request.configuration_hash)
    await get(tx, request.configuration_hash)
    await tx.run(
        _review,
        hash=request.configuration_hash,
        state=REVIEW_STATES.word(request.review_state),
        reviewer=request.reviewed_by,
    )
    if request.release:
        await tx.run(_set, hash=request.configuration_hash, wanted=False)
    entry = await get(tx, request.configuration_hash)
    await outbox.record(tx, f"configuration:{entry.configuration_hash}", entry)
    return pb.ReviewConfigurationResponse(entry=entry)


def _wire(row: Row) -> blacklist_pb2.BlacklistEntry:
    entry = blacklist_pb2.BlacklistEntry(
        id=str(row["id"]),
        configuration_hash=row["configuration_hash"],
        blocked=row["blocked"],
        reason=row["reason"],
        quarantine_record_id=str(row["quarantine_record_id"]),
        quarantined_by=str(row["quarantined_by"]),
        quarantine_time=row["quarantine_time"],
        review_state=REVIEW_STATES.number(row["review_state"]),
        reviewed_by=str(row["reviewed_by"] or ""),
        review_time=row["review_time"],
    )
    entry.evidence.update(row["evidence"])
    return entry
