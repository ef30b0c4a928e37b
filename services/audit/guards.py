"""Guards: what protects the log inside the database, read from its catalogs and hashed.

Owners, grants, policies, triggers, columns, constraints and functions of the schema, the event triggers, the powers of
its roles. Every change goes into the system's log, and what must be there and is not is named. Who disables a guard and
enables it again between two looks is not seen here; what they did meanwhile shows in the entries.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.audit import logs
from services.audit.signers import FAILURES
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Transaction

CHANGED = "audit.guard.change"
SHOWN = 40
"""Facts of each kind that an event quotes; all are in guard_states."""
LONGEST = 300
_NAMESPACE = uuid.UUID("c0a0d6a4-1d0e-5b0b-8c55-5f6f5a5f2b17")
_FACTS = """
WITH relations AS (
    SELECT c.* FROM pg_class c
    WHERE c.relnamespace = 'audits'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')),
roles AS (SELECT * FROM pg_roles WHERE rolname LIKE 'triptych\\_audits\\_%' OR rolname = 'triptych_migrator')
SELECT 'schema audits: owner ' || pg_get_userbyid(nspowner) || ', grants '
    || coalesce((SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(nspacl) a), '-') AS fact
FROM pg_namespace WHERE nspname = 'audits'
UNION ALL
SELECT 'table ' || relname || ': kind ' || relkind::text || ', owner ' || pg_get_userbyid(relowner) || ', row security '
    || relrowsecurity || ', forced ' || relforcerowsecurity || ', partition '
    || coalesce(pg_get_expr(relpartbound, oid), '-') || ', options ' || coalesce(array_to_string(reloptions, ' '), '-')
    || ', grants ' || coalesce((SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(relacl) a), '-')
FROM relations
UNION ALL
SELECT 'column ' || r.relname || '.' || attname || ': ' || format_type(atttypid, atttypmod) || ', not null '
    || attnotnull || ', generated ' || CASE attgenerated WHEN '' THEN '-' ELSE attgenerated::text || ' '
        || pg_get_expr(d.adbin, d.adrelid) END
    || ', grants ' || coalesce((SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(attacl) a), '-')
FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum WHERE r.relkind IN ('r', 'p')
UNION ALL
SELECT 'constraint ' || r.relname || '.' || conname || ': ' || pg_get_constraintdef(k.oid)
    || CASE WHEN convalidated THEN '' ELSE ' not valid' END
FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid
UNION ALL
SELECT 'index ' || pg_get_indexdef(i.indexrelid) || ', valid ' || indisvalid
FROM relations r JOIN pg_index i ON i.indrelid = r.oid
UNION ALL
SELECT 'trigger ' || r.relname || '.' || tgname || ': enabled ' || tgenabled::text || ', ' || pg_get_triggerdef(t.oid)
FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT tgisinternal
UNION ALL
SELECT 'policy ' || r.relname || '.' || polname || ': for ' || polcmd::text || ', permissive ' || polpermissive
    || ', to ' || (SELECT string_agg(CASE o WHEN 0 THEN 'public' ELSE pg_get_userbyid(o) END, ' ' ORDER BY o)
        FROM unnest(polroles) o)
    || ', using ' || coalesce(pg_get_expr(polqual, polrelid), '-')
    || ', check ' || coalesce(pg_get_expr(polwithcheck, polrelid), '-')
FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL
SELECT 'rule ' || r.relname || '.' || rulename || ': ' || pg_get_ruledef(w.oid)
FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid
UNION ALL
SELECT 'function ' || p.oid::regprocedure || ': owner ' || pg_get_userbyid(proowner) || ', definer ' || prosecdef
    || ', settings ' || coalesce(array_to_string(proconfig, ' '), '-') || ', source '
    || encode(sha256(convert_to(prosrc, 'UTF8')), 'hex')
    || ', grants ' || coalesce((SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(proacl) a), '-')
FROM pg_proc p WHERE pronamespace = 'audits'::regnamespace
UNION ALL
SELECT 'event trigger ' || evtname || ': enabled ' || evtenabled::text || ', on ' || evtevent || ', owner '
    || pg_get_userbyid(evtowner) || ', runs ' || evtfoid::regprocedure || ', source '
    || (SELECT encode(sha256(convert_to(prosrc, 'UTF8')), 'hex') FROM pg_proc WHERE oid = evtfoid)
FROM pg_event_trigger
UNION ALL
SELECT 'role ' || rolname || ': superuser ' || rolsuper || ', login ' || rolcanlogin || ', passes row security '
    || rolbypassrls || ', creates roles ' || rolcreaterole || ', member of '
    || coalesce((SELECT string_agg(pg_get_userbyid(roleid), ' ' ORDER BY pg_get_userbyid(roleid))
        FROM pg_auth_members m WHERE m.member = roles.oid), '-')
    || ', members ' || coalesce((SELECT string_agg(pg_get_userbyid(member), ' ' ORDER BY pg_get_userbyid(member))
        FROM pg_auth_members m WHERE m.roleid = roles.oid), '-')
FROM roles
"""
_NEWEST = "SELECT number, hash, facts, record_time FROM guard_states ORDER BY number DESC LIMIT 1"
_INSERT = "INSERT INTO guard_states (number, hash, facts) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
ROWS = "no_change"
GROWTH = ("only_growth", "no_deletion")
TABLES = {
    "audit_log": (ROWS,),
    "dedup": (ROWS,),
    "checkpoints": (ROWS,),
    "heads": (ROWS,),
    "cosignatures": (ROWS,),
    "guard_states": (ROWS,),
    "head": GROWTH,
    "tiles": GROWTH,
    "statistics": GROWTH,
    "manifests": ("only_onwards", "no_deletion"),
    "archives": ("only_onwards", "no_deletion"),
}
"""Tables of the log, and the triggers that each must have beside the one against TRUNCATE."""
PAYLOAD = "((body)::jsonb -> 'payload'::text)"
OPEN = frozenset(("guard_states",))
"""Tables that tell of no tenant and are under no policy."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class State:
    """The guards at a moment."""

    hash: bytes
    facts: tuple[str, ...]


async def look(tx: Transaction) -> State:
    """Read the guards as they are."""
    rows = await tx.connection.fetch(_FACTS)
    facts = tuple(sorted(row["fact"] for row in rows))
    return State(hashlib.sha256("\n".join(facts).encode()).digest(), facts)


async def record(db: Database) -> bool:
    """Compare the guards with those recorded last; a difference goes into the system's log. Say if there was one."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        now = await look(tx)
        before = await tx.connection.fetchrow(_NEWEST)
        if before is not None and before["hash"] == now.hash:
            return False
        number = before["number"] + 1 if before is not None else 1
        await tx.connection.execute(_INSERT, number, now.hash, "\n".join(now.facts))
        await logs.record(tx, _event(number, now, before["facts"].split("\n") if before is not None else []))
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
    now = await look(tx)
    found = missing(now.facts)
    recorded = await tx.connection.fetchrow(_NEWEST)
    if recorded is None or recorded["hash"] != now.hash:
        found.append("the guards are not those that were recorded last; the change is about to be recorded")
    elif recorded["number"] > 1:
        changes, last = recorded["number"] - 1, recorded["record_time"]
        found.append(f"the guards were changed {changes} times, last seen {last:%Y-%m-%d %H:%M:%S} UTC")
    return now, found


def stored_payload(facts: Sequence[str]) -> str:
    """Name a table whose payload is not computed from the body when it is read; empty when there is none."""
    for fact in facts:
        name, _, text = fact.partition(": ")
        if name.startswith("column audit_log") and name.endswith(".payload") and f"generated v {PAYLOAD}," not in text:
            return name.removeprefix("column ").removesuffix(".payload")
    return ""


def missing(facts: Sequence[str]) -> list[str]:
    """Name each guard that must be there and is not, or is disabled."""
    tables = _tables(facts)
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
            if not any(fact.startswith(f"trigger {table}.{trigger}: enabled A,") for fact in facts)
        ]
    found += [f"there is a {fact.partition(':')[0]}" for fact in facts if _strange_rule(fact)]
    found += [f"the {fact.partition(':')[0]} has powers that it must not have" for fact in facts if _powerful(fact)]
    return found


def _tables(facts: Sequence[str]) -> dict[str, str]:
    """Give the facts of tables, by name."""
    pairs = (fact.removeprefix("table ").partition(": ") for fact in facts if fact.startswith("table "))
    return {name: text for name, _, text in pairs if "kind v" not in text}


def _strange_rule(fact: str) -> bool:
    return fact.startswith("rule ") and "._RETURN:" not in fact


def _powerful(fact: str) -> bool:
    flags = ("superuser true", "passes row security true", "creates roles true")
    return fact.startswith("role ") and any(flag in fact for flag in flags)


def _event(number: int, now: State, before: Sequence[str]) -> logs.Own:
    added, removed = sorted(set(now.facts) - set(before)), sorted(set(before) - set(now.facts))
    if not before:  # the first look: the facts are in guard_states, and the hash stands for them
        added = []
    return logs.Own(
        event_id=str(uuid.uuid5(_NAMESPACE, f"{number} {now.hash.hex()}")),
        entity="schema:audits",
        action=CHANGED,
        payload={
            "number": number,
            "guard_hash": now.hash.hex(),
            "facts": len(now.facts),
            "added": _shown(added),
            "added_count": len(added),
            "removed": _shown(removed),
            "removed_count": len(removed),
        },
    )


def _shown(facts: Sequence[str]) -> list[str]:
    return [fact[:LONGEST] for fact in facts[:SHOWN]]
