"""Logs: one head row each, which orders everything that enters. Append is the only way in.

A repeated event gives its receipt again; the same id with other content leaves a conflict entry and fails its call.
What audit itself has to say enters as `Own`: it gets its number in the log's transaction, and once by its id.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from services.audit import entries, envelopes, openings, sources, statistics, tiles
from services.audit.entries import Entry
from services.audit.envelopes import Envelope
from services.audit.verifier import leaf_hash, log_name
from services.kit import clock
from services.kit.db import Row, Transaction
from services.kit.faults import AlreadyExists
from triptych.audit.v1 import event_pb2

CONFLICT = "audit.event.conflict"
SOURCE = "audit"
ATTEMPT_SHOWN = 4096
"""Characters of a conflicting event that its evidence quotes; its hash is of all."""
_LEAST = timedelta(microseconds=1)
_LOCK = "SELECT size, last_leaf, recorded_at, own_seq FROM head WHERE tenant_id = $1 FOR UPDATE"
_BEGIN = """
    INSERT INTO head (tenant_id, size, last_leaf, recorded_at, own_seq)
    VALUES ($1, 0, decode(repeat('00', 32), 'hex'), '1970-01-01 00:00:00+00', 0) ON CONFLICT DO NOTHING
"""
_ADVANCE = """
    UPDATE head SET size = $2, last_leaf = $3, recorded_at = $4, own_seq = $5 WHERE tenant_id = $1 AND size = $6
"""
# One statement, so that both numbers are of one moment.
_HEAD = """
    SELECT h.size, h.last_leaf, (SELECT max(seq) FROM audit_log l WHERE l.tenant_id = h.tenant_id) AS last_seq
    FROM head h WHERE h.tenant_id = $1
"""
# The leaf comes from the tree, which stays when a month of entries has been retired.
_KNOWN = """
    SELECT d.event_id, d.seq, d.content_hash, substring(t.hashes FROM (d.seq % 256 * 32 + 1)::integer FOR 32) AS leaf
    FROM dedup d JOIN tiles t ON t.tenant_id = d.tenant_id AND t.level = 0 AND t.idx = d.seq / 256
    WHERE d.tenant_id = $1 AND d.event_id = ANY($2::uuid[])
"""


class EventConflict(AlreadyExists):
    """The id is in the log with other content."""

    def __init__(self, event_id: str, seq: int) -> None:
        super().__init__(
            f"event {event_id} is in the log with other content; the attempt was recorded", event_id=event_id, seq=seq
        )


def seen(error: asyncpg.UniqueViolationError) -> bool:
    """Tell whether an event that was thought to be unseen is in the log."""
    return error.constraint_name == "dedup_pkey"


@dataclass(frozen=True, slots=True)
class Own:
    """An event of audit's own. Its id must follow from what happened, so that recording it again adds nothing."""

    event_id: str
    entity: str
    action: str
    payload: Mapping[str, Any]
    actor: tuple[str, str] = ("service", SOURCE)
    correlation_id: str = ""


Item: TypeAlias = "Envelope | Own"


class Known(NamedTuple):
    """What the log holds under an event id."""

    seq: int
    content_hash: bytes
    leaf: bytes


@dataclass(slots=True)
class _Growth:
    """What one transaction adds to a log, in order."""

    tenant_id: str
    size: int
    last_leaf: bytes
    recorded_at: datetime
    own_seq: int
    now: datetime
    known: dict[str, Known]
    added: list[Entry] = field(default_factory=list)
    log_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.log_id = log_name(self.tenant_id)

    def take(self, group: Sequence[Item]) -> "list[event_pb2.Receipt] | EventConflict":
        """Take all events of one call, or none."""
        conflicts = [item for item in group if isinstance(item, Envelope) and _conflicts(item, self.known)]
        for envelope in conflicts:
            self._add(self._conflict(envelope, self.known[envelope.event_id]))
        if conflicts:
            first = conflicts[0].event_id
            return EventConflict(first, self.known[first].seq)
        return [self._receipt(item) for item in group]

    def _receipt(self, item: Item) -> event_pb2.Receipt:
        held = self.known.get(item.event_id)
        duplicate = held is not None
        if held is None:
            held = self._add(item if isinstance(item, Envelope) else self._own(item))
        return event_pb2.Receipt(
            event_id=item.event_id,
            log_id=self.log_id,
            seq=held.seq,
            leaf_hash=held.leaf.hex(),
            duplicate=duplicate,
        )

    def _add(self, envelope: Envelope) -> Known:
        """Give an event the next place."""
        if (held := self.known.get(envelope.event_id)) is not None:
            return held
        moment = later(self.now, self.recorded_at)
        body = envelope.body(seq=self.size, recorded_at=moment, prev_hash=self.last_leaf.hex())
        leaf = leaf_hash(body)
        self.added.append(Entry(self.size, moment, envelope, body, leaf))
        known = self.known[envelope.event_id] = Known(self.size, envelope.content_hash, leaf)
        self.size, self.last_leaf, self.recorded_at = self.size + 1, leaf, moment
        if envelope.source == SOURCE:
            self.own_seq += 1
        return known

    def _conflict(self, envelope: Envelope, held: Known) -> Envelope:
        """Make the evidence of a conflict."""
        return self._own(
            Own(
                event_id=_evidence_id(envelope),
                entity=f"event:{envelope.event_id}",
                action=CONFLICT,
                actor=("service", envelope.source),
                correlation_id=envelope.correlation_id,
                payload={
                    "attempt": f"{envelope.front}{envelope.back}"[:ATTEMPT_SHOWN],
                    "attempt_hash": envelope.content_hash.hex(),
                    "seq": held.seq,
                },
            )
        )

    def _own(self, own: Own) -> Envelope:
        """Give an event of audit's own the next of audit's numbers."""
        return envelopes.compose(
            tenant_id=self.tenant_id,
            event_id=own.event_id,
            source=SOURCE,
            source_seq=self.own_seq + 1,
            entity=own.entity,
            action=own.action,
            actor=own.actor,
            correlation_id=own.correlation_id,
            occurred_at=self.now,
            payload=own.payload,
        )


async def append(
    tx: Transaction, groups: Sequence[Sequence[Item]], *, unseen: bool = False
) -> "list[list[event_pb2.Receipt] | EventConflict]":
    """Append the events of several calls to the transaction's log; each call gets its receipts or its conflict.

    `unseen` spares looking for repetitions first. If there is one, its id stands in the way (`seen` tells), and nothing
    is written: the caller does the same once more without it.
    """
    head = await lock(tx)
    given = [item for group in groups for item in group]
    known = {} if unseen else await _known(tx, [item.event_id for item in given])
    if conflicts := [item for item in given if isinstance(item, Envelope) and _conflicts(item, known)]:
        known |= await _known(tx, [_evidence_id(envelope) for envelope in conflicts])
    growth = _Growth(
        tx.tenant_id, head["size"], head["last_leaf"], head["recorded_at"], head["own_seq"], clock.now(), known
    )
    outcomes = [growth.take(group) for group in groups]
    if growth.added:
        await entries.write(tx, growth.added)
        await openings.add(tx, growth.added)
        await statistics.add(tx, growth.added)
        await sources.add(tx, growth.added)
        edge = await tiles.edge(tx, head["size"])
        await tiles.store(tx, edge.extend(entry.leaf for entry in growth.added))
        await advance(
            tx,
            size=growth.size,
            last_leaf=growth.last_leaf,
            recorded_at=growth.recorded_at,
            own_seq=growth.own_seq,
            old_size=head["size"],
        )
    return outcomes


async def record(tx: Transaction, own: Own) -> event_pb2.Receipt:
    """Append an event of audit's own in this transaction, beside what it tells of."""
    (outcome,) = await append(tx, [[own]])
    if isinstance(outcome, EventConflict):
        raise outcome
    return outcome[0]


def later(now: datetime, before: datetime) -> datetime:
    """Give the present, or a moment after the one before when the clock was turned back."""
    return max(now, before + _LEAST)


def _conflicts(envelope: Envelope, known: Mapping[str, Known]) -> bool:
    held = known.get(envelope.event_id)
    return held is not None and held.content_hash != envelope.content_hash


def _evidence_id(envelope: Envelope) -> str:
    """Give the id of the evidence of a conflict: the same attempt has the same, so repeating it adds nothing."""
    return str(uuid.uuid5(uuid.UUID(envelope.event_id), envelope.content_hash.hex()))


async def head(tx: Transaction) -> Row | None:
    """Give size and last leaf of the transaction's log as its head has them, and the last entry that is there."""
    return await tx.connection.fetchrow(_HEAD, tx.tenant_id)


async def lock(tx: Transaction) -> Row:
    """Keep everybody else from growing the transaction's log, and give its head."""
    row = await tx.connection.fetchrow(_LOCK, tx.tenant_id)
    if row is None:
        await tx.connection.execute(_BEGIN, tx.tenant_id)
        row = await tx.connection.fetchrow(_LOCK, tx.tenant_id)
    if row is None:
        raise RuntimeError(f"the log of {tx.tenant_id} has no head and cannot get one")
    return row


async def _known(tx: Transaction, event_ids: list[str]) -> dict[str, Known]:
    rows = await tx.connection.fetch(_KNOWN, tx.tenant_id, event_ids)
    return {str(row["event_id"]): Known(row["seq"], row["content_hash"], row["leaf"]) for row in rows}


async def advance(
    tx: Transaction, *, size: int, last_leaf: bytes, recorded_at: datetime, own_seq: int, old_size: int
) -> None:
    """Move the head that is locked."""
    status = await tx.connection.execute(_ADVANCE, tx.tenant_id, size, last_leaf, recorded_at, own_seq, old_size)
    if status != "UPDATE 1":
        raise RuntimeError(f"the head of {tx.tenant_id} moved under its lock")
