"""Months: which changes of the guards are the service's own work, the months that it makes ahead, detaches and drops.

It is, when the event triggers saw its own logins do it, nobody else did anything, and what is there afterwards is, line
by line, what the months before it have. Everything else about the schema must be as it was.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from services.kit.db import Row

BEGUN, MADE, DETACHED, DROPPED = "begun", "made", "detached", "dropped"
APP, KEEPER = "triptych_audits_app", "triptych_audits_relay"
_NAME = re.compile(r"audit_log_(\d{4}_\d{2})(?!\d)")
_TABLE, _PARENT = "{0} table audits.audit_log_{1}", "{0} parent of audits.audit_log_{1}: audits.audit_log"
_ATTACHED = "partition FOR VALUES FROM ('<begin> 00:00:00+00') TO ('<end> 00:00:00+00'), of audit_log,"
_ALONE = "partition -, of -,"
Lines: TypeAlias = frozenset[str]


def explain(before: Iterable[str], now: Iterable[str], changes: Sequence[Row]) -> bool:
    """Say whether all that changed are months that the service made or retired as it must."""
    told = _told(changes)
    if told is None:
        return False
    (others_before, months_before), (others_now, months_now) = _split(before), _split(now)
    if others_before != others_now:
        return False
    attached = {lines for lines in months_before.values() if _is_attached(lines)}
    return all(
        _fits(told.get(month), months_before.get(month), months_now.get(month), attached)
        for month in {*months_before, *months_now, *told}
    )


def _fits(deed: str | None, before: Lines | None, now: Lines | None, attached: set[Lines]) -> bool:
    """Compare a month with what was last done to it."""
    if deed is None:
        return now == before
    if deed == DROPPED:
        return now is None
    if deed == MADE:
        return now in attached
    return deed == DETACHED and now in {
        frozenset(line.replace(_ATTACHED, _ALONE) for line in lines) for lines in attached
    }


def _told(changes: Sequence[Row]) -> dict[str, str] | None:
    """Give what was done to each month last; None where it was not the service alone that did something."""
    done: dict[str, str] = {}
    for change in changes:
        named = {found[1] if (found := _NAME.search(line)) else "" for line in change["details"]}
        if len(named) != 1:  # what was done in hiding before is noted with the next command, whoever gives it
            return None
        (month,) = named
        deed = _deed(change, month, done.get(month))
        if not deed:
            return None
        done[month] = deed
    return done


def _deed(change: Row, month: str, before: str | None) -> str | None:
    """Say how far a month is after one command; None for what the service does not do."""
    lines = set(change["details"])
    table = {verb for verb in ("new", "gone") if _TABLE.format(verb, month) in lines}
    parent = {verb for verb in ("new", "gone") if _PARENT.format(verb, month) in lines}
    match change["session_name"], sorted(table), sorted(parent):
        case (login, ["new"], []) if login == APP:
            return BEGUN
        case (login, [], ["new"]) if login == APP and before == BEGUN:
            return MADE
        case (login, [], ["gone"]) if login == KEEPER:
            return DETACHED
        case (login, ["gone"], []) if login == KEEPER:
            return DROPPED
        case (login, [], []) if (login, before) in ((APP, BEGUN), (KEEPER, DETACHED)):
            return before
    return None


def _split(lines: Iterable[str]) -> tuple[Lines, Mapping[str, Lines]]:
    """Give the lines that are of no month, and those of each with its name and its bounds taken out."""
    others: set[str] = set()
    months: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        if (found := _NAME.search(line)) is None:
            others.add(line)
        else:
            months[found[1]].add(_plain(line, found[1]))
    return frozenset(others), {month: frozenset(found) for month, found in months.items()}


def _plain(line: str, name: str) -> str:
    year, month = map(int, name.split("_"))
    begin, end = f"{year:04}-{month:02}-01", f"{year + month // 12:04}-{month % 12 + 1:02}-01"
    bounds = _ATTACHED.replace("<begin>", begin).replace("<end>", end)
    return line.replace(f"audit_log_{name}", "audit_log_<month>").replace(bounds, _ATTACHED)


def _is_attached(lines: Lines) -> bool:
    return any(line.startswith("table ") and _ATTACHED in line for line in lines)
