"""Guards: what protects the log inside the database, looked at and hashed, and what became of it in between.

Every change of the lines that `facts` reads goes into the system's log, and so does what the event triggers of
guards.sql noted since the last look, also when it was put back; what the service did to its months is told as expected.
What must be there and is not is named. A superuser who turns the event triggers off leaves nothing there; what they did
meanwhile shows in the entries.
"""

import asyncio
import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from services.audit import facts, logs, months
from services.audit.signers import FAILURES
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Transaction

CHANGED = "audit.guard.change"
SHOWN = 40
"""Lines of each kind that an event quotes; all facts are in guard_states, all changes in triptych_guards.changes."""
LONGEST = 300
ROOM = 7000
"""Bytes that the quoted lines of a kind may take: three kinds must fit into a payload, whatever their names are."""
TRIES = 5
"""How often they are read anew because something changed meanwhile."""
_NAMESPACE = uuid.UUID("c0a0d6a4-1d0e-5b0b-8c55-5f6f5a5f2b17")
_NEWEST = "SELECT number, hash, facts, last_change FROM guard_states ORDER BY number DESC LIMIT 1"
_INSERT = """
    INSERT INTO guard_states (number, hash, facts, last_change, expected) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT DO NOTHING
"""
_UNEXPECTED = "SELECT count(*) AS count, max(record_time) AS last FROM guard_states WHERE number > 1 AND NOT expected"
# A database that guards.sql of this version was not applied to has no such tables, or shows them to nobody.
_SHOWN = """
    SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE nspname = 'triptych_guards' AND relname = 'changes'
          AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
"""
_CHANGES = """
    SELECT number, change_time, session_name, role_name, act, details FROM triptych_guards.changes
    WHERE number > $1 ORDER BY number
"""
_STATE = "SELECT sealed, admitted, change_time FROM triptych_guards.state"
_DEVIATIONS = "SELECT triptych_guards.deviations() AS text"
ROWS = "no_change"
GROWTH = ("only_growth", "no_deletion")
TABLES = {
    "audit_log": (ROWS,),
    "dedup": (ROWS,),
    "checkpoints": (ROWS,),
    "heads": (ROWS,),
    "cosignatures": (ROWS,),
    "overrides": (ROWS,),
    "breaks": (ROWS,),
    "guard_states": (ROWS,),
    "head": GROWTH,
    "tiles": GROWTH,
    "statistics": GROWTH,
    "manifests": ("only_onwards", "no_deletion"),
    "archives": ("only_onwards", "no_deletion"),
    "retirements": ("only_onwards", "no_deletion"),
    "openings": (),
}
"""Tables of the log, and the triggers that each must have beside the one against TRUNCATE."""
EVENT_TRIGGERS = ("triptych_halt", "triptych_hold", "triptych_keep", "triptych_preserve")
PAYLOAD = "((body)::jsonb -> 'payload'::text)"
OPEN = frozenset(("retirements",))
"""Tables that tell of no tenant and are under no policy."""
_log = structlog.get_logger()
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class State:
    """The guards at a moment."""

    hash: bytes
    facts: tuple[str, ...]


async def look(tx: Transaction) -> State:
    """Read the guards as they are."""
    found = await facts.read(tx)
    return State(hashlib.sha256("\n".join(found).encode()).digest(), found)


async def record(db: Database) -> bool:
    """Compare the guards with those recorded last; a difference goes into the system's log. Say if there was one."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        before = await tx.connection.fetchrow(_NEWEST)
        now, changes = await _compare(tx, before)
        if before is not None and before["hash"] == now.hash and not changes:
            return False
        number = before["number"] + 1 if before is not None else 1
        last = changes[-1]["number"] if changes else before["last_change"] if before is not None else 0
        expected = before is not None and _expected(before, now, changes)
        await tx.connection.execute(_INSERT, number, now.hash, "\n".join(now.facts), last, expected)
        await logs.record(tx, _event(number, now, before, changes, expected=expected))
    if before is None:
        _log.info("the guards of the schema are recorded", hash=now.hash.hex())
    elif expected:
        _log.info("months of the log came or went", number=number, hash=now.hash.hex())
    else:
        _log.warning("the guards of the schema have changed", number=number, hash=now.hash.hex())
    return True


async def keep(db: Database, seconds: float) -> None:
    """Look at them for as long as the process serves."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await record(db)
        except FAILURES as error:
            _log.warning("the guards could not be looked at", error=type(error).__name__, text=str(error))


async def findings(tx: Transaction) -> tuple[State, list[str]]:
    """Give the guards as they are now, and what is not as it must be."""
    recorded = await tx.connection.fetchrow(_NEWEST)
    now, changes = await _compare(tx, recorded)
    found = missing(now.facts)
    unexpected = await tx.connection.fetchrow(_UNEXPECTED)
    if recorded is None or (recorded["hash"] != now.hash and not _expected(recorded, now, changes)):
        found.append("the guards are not those that were recorded last; the change is about to be recorded")
    elif unexpected is not None and unexpected["count"]:
        times, last = unexpected["count"], unexpected["last"]
        found.append(f"the guards were changed {times} times, last seen {last:%Y-%m-%d %H:%M:%S} UTC")
    return now, found + await _unsealed(tx)


async def _compare(tx: Transaction, before: Row | None) -> tuple[State, Sequence[Row]]:
    """Read the guards, and what was noted since those before, both of one moment: what was made belongs to its note."""
    last = before["last_change"] if before is not None else 0
    noted = await _changes(tx, last)
    for _ in range(TRIES):
        now, changes, noted = await look(tx), noted, await _changes(tx, last)
        if len(noted) == len(changes):
            break
    return now, noted


def _expected(before: Row, now: State, changes: Sequence[Row]) -> bool:
    """Tell whether nothing changed but months, as the service makes and retires them."""
    return months.explain(before["facts"].split("\n"), now.facts, changes)


async def _unsealed(tx: Transaction) -> list[str]:
    """Name what is not as it was when the schema was sealed, or say that it is not sealed."""
    if not await tx.connection.fetchval(_SHOWN):
        return ["the event triggers that hold the owner of the schema are not there: apply guards.sql"]
    state = await tx.connection.fetchrow(_STATE)
    if state is None or not state["sealed"]:
        since = f" since {state['change_time']:%Y-%m-%d %H:%M:%S} UTC" if state is not None else ""
        target = state["admitted"] if state is not None else "any revision"
        return [f"the schema is open for a migration to {target}{since}; the migration seals it"]
    rows = await tx.connection.fetch(_DEVIATIONS)
    return [f"{_plain(row['text'])} since the schema was sealed" for row in rows[:SHOWN]]


async def _changes(tx: Transaction, last: int) -> Sequence[Row]:
    """Give what the event triggers noted after a change."""
    if not await tx.connection.fetchval(_SHOWN):
        return []
    rows: Sequence[Row] = await tx.connection.fetch(_CHANGES, last)
    return rows


def stored_payload(lines: Sequence[str]) -> str:
    """Name a table whose payload is not computed from the body when it is read; empty when there is none."""
    for fact in lines:
        name, _, text = fact.partition(": ")
        if name.startswith("column audit_log") and name.endswith(".payload") and f"generated v {PAYLOAD}," not in text:
            return name.removeprefix("column ").removesuffix(".payload")
    return ""


def missing(lines: Sequence[str]) -> list[str]:
    """Name each guard that must be there and is not, or is disabled."""
    tables = _tables(lines)
    partitions = [name for name in tables if name.startswith("audit_log_")]
    wanted = TABLES | dict.fromkeys(partitions, (ROWS,))
    found: list[str] = []
    for table, triggers in sorted(wanted.items()):
        text = tables.get(table, "")
        if not text:
            found.append(f"the table {table} is gone")
            continue
        if "owner triptych_audits_owner" not in text:
            found.append(f"the table {table} belongs to another role than triptych_audits_owner")
        if table not in OPEN and "row security true, forced true" not in text:
            found.append(f"row-level security of the table {table} is off, or not forced")
        if table in partitions and "partition -" in text:
            found.append(f"the table {table} is detached from the log")
        found += [
            f"the trigger {trigger} of the table {table} is disabled or gone"
            for trigger in (*triggers, "no_truncation")
            if not any(fact.startswith(f"trigger {table}.{trigger}: enabled A,") for fact in lines)
        ]
    found += [
        f"the event trigger {name} is disabled or gone"
        for name in EVENT_TRIGGERS
        if not any(fact.startswith(f"event trigger {name}: enabled A,") for fact in lines)
    ]
    found += [f"there is a {fact.partition(':')[0]}" for fact in lines if _strange_rule(fact)]
    found += [f"the {fact.partition(':')[0]} has powers that it must not have" for fact in lines if _powerful(fact)]
    return found


def _tables(lines: Sequence[str]) -> dict[str, str]:
    """Give the facts of tables, by name."""
    pairs = (fact.removeprefix("table ").partition(": ") for fact in lines if fact.startswith("table "))
    return {name: text for name, _, text in pairs if "kind v" not in text}


def _strange_rule(fact: str) -> bool:
    return fact.startswith("rule ") and "._RETURN:" not in fact


def _powerful(fact: str) -> bool:
    flags = ("superuser true", "passes row security true", "creates roles true")
    return fact.startswith("role ") and any(flag in fact for flag in flags)


def _event(number: int, now: State, before: Row | None, changes: Sequence[Row], *, expected: bool) -> logs.Own:
    earlier = before["facts"].split("\n") if before is not None else []
    added, removed = sorted(set(now.facts) - set(earlier)), sorted(set(earlier) - set(now.facts))
    if before is None:  # the first look: the facts are in guard_states, and the hash stands for them
        added, changes = [], []
    return logs.Own(
        event_id=str(uuid.uuid5(_NAMESPACE, f"{number} {now.hash.hex()}")),
        entity="schema:audits",
        action=CHANGED,
        payload={
            "number": number,
            "guard_hash": now.hash.hex(),
            "facts": len(now.facts),
            "expected": expected,
            "added": _shown(added),
            "added_count": len(added),
            "removed": _shown(removed),
            "removed_count": len(removed),
            "changes": _told(changes),
            "changes_count": len(changes),
        },
    )


def _told(changes: Sequence[Row]) -> list[dict[str, object]]:
    """Quote the newest changes: who, what, and the first lines of it."""
    told: list[dict[str, object]] = []
    for change in changes[::-1][:SHOWN]:
        details = [_plain(line) for line in change["details"]]
        told.append(
            {
                "number": change["number"],
                "time": f"{change['change_time']:%Y-%m-%dT%H:%M:%S.%fZ}",
                "session": _plain(change["session_name"]),
                "role": _plain(change["role_name"]),
                "act": _plain(change["act"]),
                "details": _within(details, ROOM // 10),
                "details_count": len(details),
            }
        )
    return _within(told, ROOM)[::-1]


def _shown(lines: Sequence[str]) -> list[str]:
    return _within([_plain(line) for line in lines[:SHOWN]], ROOM)


def _plain(line: str) -> str:
    """Leave nothing in a line that takes more than two bytes a character: names can be anything."""
    return "".join(sign if sign.isascii() and sign.isprintable() else "?" for sign in line)[:LONGEST]


def _within(items: Sequence[_Item], room: int) -> list[_Item]:
    """Give as many of the first as there is room for."""
    kept: list[_Item] = []
    for item in items:
        room -= len(json.dumps(item)) + 2
        if room < 0:
            break
        kept.append(item)
    return kept
