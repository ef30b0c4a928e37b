"""Breaks: the database is not what was witnessed. Found at the start, and accepted one by one, each in one exact state.

A token names what the witness signed last and what the database is: it is good for no other state and no later one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import structlog

from services.audit import logs, merkle, overrides, tiles
from services.audit.envelopes import SUPER_TENANT
from services.audit.overrides import Override
from services.audit.verifier import Checkpoint, compose_follows, epoch
from services.audit.witnesses import Cosigned
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Transaction
from services.kit.settings import StartRefused

TOKEN = 32
"""Hexadecimal digits of a token: nobody finds another state with the same."""
SHOWN = 20
"""Logs that a refusal to start names."""
_log = structlog.get_logger()


class AnchorBroken(StartRefused):
    """The database is not what was witnessed; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Break:
    """The database is not what was witnessed: how, and in which state exactly it is."""

    problem: str
    state: str
    before: Override
    size: int
    root: bytes
    behind: Sequence[Row]
    anchor: bool
    """The super-log itself is not what the witness has seen, so a new one begins."""

    @property
    def token(self) -> str:
        """Name this break in this state: accepting it accepts no other."""
        return hashlib.sha256(self.state.encode()).hexdigest()[:TOKEN]

    def override(self, seen: Checkpoint | None) -> Override:
        """Give what accepting it makes of the super-log."""
        epochs, follows = self.before.epoch, self.before.follows
        if self.anchor and seen is not None:
            epochs = max(epochs, epoch(seen.log_id)) + 1
            follows = compose_follows(seen, self.token)
        return Override(self.before.number + 1, self.token, epochs, follows, self.size, self.root)


async def compare(db: Database, seen: Cosigned | None) -> Break | None:
    """Say what is not as it was witnessed, and which state exactly that is; None when all is as it should be."""
    async with db.begin(tenant=SUPER_TENANT) as tx:
        override = await overrides.newest(tx)
        size, root = await _standing(tx)
        text = await _broken(tx, seen, override)
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        behind = await tx.connection.fetch("SELECT tenant_id, size, listed FROM logs_behind() ORDER BY 1")
        others = await tx.connection.fetchval("SELECT state_of_logs()")
    if not text and not behind:
        return None
    state = [
        f"override {override.number}, super-log {override.log_id}: {size} {root.hex()}",
        f"logs: {others}",
        *(f"{row['tenant_id']}: {row['size']} of {row['listed']}" for row in behind),
        f"witnessed:\n{seen.checkpoint.note if seen is not None else ''}",
    ]
    problem = "; ".join([*([text] if text else []), *(_text(row) for row in behind[:SHOWN])])
    return Break(problem, "\n".join(state), override, size, root, behind, anchor=bool(text))


async def accept(db: Database, found: Break, seen: Cosigned | None, witness: str) -> None:
    """Keep an operator's decision, and write it into the system's log, in one transaction."""
    override = found.override(seen.checkpoint if seen is not None else None)
    event_id = str(overrides.event_of(SYSTEM_TENANT, f"system {override.token}"))
    own = logs.Own(
        event_id=event_id,
        entity="witness:super",
        action=overrides.ACCEPTED,
        payload={
            "accepted": override.token,
            "number": override.number,
            "problem": found.problem,
            "witness": witness,
            "witnessed_size": seen.checkpoint.size if seen is not None else 0,
            "witnessed_root": seen.checkpoint.root.hex() if seen is not None else "",
            "super_log": override.log_id,
            "super_size": override.super_size,
            "super_root": override.super_root.hex(),
            "logs_cut": len(found.behind),
        },
    )
    try:
        async with db.begin(tenant=SYSTEM_TENANT) as tx:
            await overrides.store(tx, override, state=found.state, event_id=event_id, behind=found.behind)
            await logs.record(tx, own)
    except asyncpg.UniqueViolationError:
        raise AnchorBroken("another process has accepted a break meanwhile: start again") from None
    _log.warning("started against the witness, as the setting accept_broken_anchor says", problem=found.problem)


async def tell(db: Database) -> None:
    """Write into each log that was cut that it was; whoever is stopped meanwhile does it at the next start."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        rows = await overrides.broken(tx)
    for row in rows:
        own = logs.Own(
            event_id=str(row["event_id"]), entity="log:cut", action=overrides.ACCEPTED, payload=overrides.payload(row)
        )
        try:
            async with db.begin(tenant=str(row["tenant_id"])) as tx:
                await logs.record(tx, own)
        except asyncpg.PostgresError as error:  # its tree cannot be continued; VerifyLog says so
            _log.error("a log that was cut cannot be told so", tenant=str(row["tenant_id"]), text=str(error))


async def unwitnessed(db: Database, seen: Cosigned | None) -> bool:
    """Tell whether an operator accepted something and the witness has signed nothing since."""
    async with db.begin(tenant=SUPER_TENANT) as tx:
        override = await overrides.newest(tx)
    if seen is None or not override.number:
        return False
    # What is said of an acceptance in the system's log makes the super-log longer than it was.
    signed = epoch(seen.checkpoint.log_id)
    return signed < override.epoch or (signed == override.epoch and seen.checkpoint.size <= override.super_size)


async def _standing(tx: Transaction) -> tuple[int, bytes]:
    """Give size and root of the super-log as it is stored, whole or not."""
    head = await logs.head(tx)
    if head is None or not head["size"]:
        return 0, overrides.EMPTY
    try:
        return head["size"], await tiles.root(tx, head["size"])
    except merkle.TileMissing:
        return head["size"], head["last_leaf"]


async def _broken(tx: Transaction, seen: Cosigned | None, override: Override) -> str:
    """Say what of the super-log is not what the witness has seen, or what was accepted since; empty when all is."""
    if seen is None:
        return ""
    held = seen.checkpoint
    size, root, who = held.size, held.root, "the witness has signed"
    if epoch(held.log_id) > override.epoch:
        return f"the witness has signed {held.log_id}, and this database has {override.log_id}"
    if epoch(held.log_id) < override.epoch:
        if override.follows.rpartition(" ")[0] != compose_follows(held, ""):
            return f"{override.log_id} does not refer to the {held.size} heads of {held.log_id} that the witness signed"
        size, root, who = override.super_size, override.super_root, "an operator accepted"
    head = await logs.head(tx)
    there = head["size"] if head is not None else 0
    if there < size:
        return f"the super-log has {there} heads, and {who} {size}"
    try:
        fits = not size or await tiles.root(tx, size) == root
    except merkle.TileMissing as missing:
        return f"the super-log: {missing}"
    return "" if fits else f"the super-log does not begin with the {size} heads that {who}"


def _text(row: Row) -> str:
    return f"log {row['tenant_id']} has {row['size']} entries, and the super-log lists {row['listed']}"
