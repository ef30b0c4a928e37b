"""Searches: which entries of a log a list or an export is about, and the query that finds them.

A search by words goes through a function of the database: under row-level security an index of words is not used. All
other filters are an ordinary query.
"""

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import func, select

from services.audit import entries, manifests
from services.audit.entries import table
from services.kit.db import LONGEST_STATEMENT, Database, Row, Transaction
from services.kit.faults import InvalidArgument, RequestInvalid
from services.kit.paging import Page
from triptych.audit.v1 import audit_service_pb2 as pb

NAMES = ("entity", "action", "actor_id", "correlation_id", "source")
_WORDS = "SELECT numnode(websearch_to_tsquery('simple', $1))"
_FIND = "SELECT seq, recorded_at, leaf, body FROM find_entries($1, $2, $3, $4, $5, $6)"
_FIND_PLACES = "SELECT seq, recorded_at FROM find_entries($1, $2, $3, $4, $5, $6)"
_BODIES = """
    SELECT seq, recorded_at, leaf, body FROM audit_log
    WHERE tenant_id = $1 AND seq = ANY($2::bigint[]) AND recorded_at BETWEEN $3 AND $4 ORDER BY seq
"""
PLACES = 1000
"""Entries that one look by words finds for an export; their bodies are read afterwards, fewer at a time."""
_BOUND = f"SET LOCAL statement_timeout = '{LONGEST_STATEMENT:.0f}s'"
"""An export may take minutes, but none of its looks."""


class SearchEmpty(InvalidArgument):
    """The text has no word."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What is wanted; what is empty does not limit."""

    exact: dict[str, str]
    action_prefix: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(cls, given: Any) -> "Filter":
        """Read a ListEventsRequest or an EventFilter: the fields are the same."""
        since, until = period(given, "start_time", "end_time")
        return cls(
            exact={name: getattr(given, name) for name in NAMES if getattr(given, name)},
            action_prefix=given.action_prefix,
            text=given.text,
            since=since,
            until=until,
        )

    @property
    def empty(self) -> bool:
        """Nothing is limited."""
        return not (self.exact or self.action_prefix or self.text or self.since or self.until)

    def plain(self) -> dict[str, str]:
        """Give what is limited, for people to read."""
        facts = self.exact | {"action_prefix": self.action_prefix, "text": self.text}
        moments = {"start_time": self.since, "end_time": self.until}
        facts |= {name: value.isoformat() for name, value in moments.items() if value is not None}
        return {name: value for name, value in facts.items() if value}

    async def check(self, tx: Transaction) -> None:
        """Raise when the text has no word: that would find nothing, and the reader would believe it."""
        if self.text and not await tx.connection.fetchval(_WORDS, self.text):
            raise SearchEmpty("the text to search for has no word in it; give letters or digits")

    async def newest(self, tx: Transaction, before: datetime | None, most: int) -> list[Row]:
        """Give entries, newest first, that were recorded before a moment."""
        return await self._find(tx, since=self.since, until=_least(self.until, before), most=most, oldest_first=False)

    async def oldest(self, tx: Transaction, since: datetime | None, most: int) -> list[Row]:
        """Give entries, oldest first, that were recorded at or after a moment."""
        begin = max(since, self.since) if since and self.since else since or self.since
        return await self._find(tx, since=begin, until=self.until, most=most, oldest_first=True)

    async def walk(self, db: Database, size: int, most: int) -> AsyncIterator[list[Row]]:
        """Give all entries among the first `size` of the caller's log, oldest first, `most` at a time.

        MonthRetired when entries leave meanwhile: they would be left out in silence.
        """
        since: datetime | None = None
        async with db.begin() as tx:
            begin = await manifests.min_index(tx)
        while True:
            async with db.begin() as tx:
                await tx.connection.execute(_BOUND)
                rows = await (self._places(tx, since) if self.text else self.oldest(tx, since, most))
            await manifests.same(db, begin)
            inside = [row for row in rows if row["seq"] < size]
            for first in range(0, len(inside), most):
                part = inside[first : first + most]
                yield await _bodies(db, part, begin) if self.text else part
            if len(rows) < (PLACES if self.text else most) or len(inside) < len(rows):
                return
            since = rows[-1]["recorded_at"] + timedelta(microseconds=1)

    async def _places(self, tx: Transaction, since: datetime | None) -> list[Row]:
        """Give where the next entries with the words are: each look begins anew with all that have them."""
        begin = max(since, self.since) if since and self.since else since or self.since
        return await tx.connection.fetch(_FIND_PLACES, self.text, self._others, begin, self.until, True, PLACES)

    @property
    def _others(self) -> dict[str, str]:
        """What is wanted beside words and times."""
        return self.exact | ({"action_prefix": self.action_prefix} if self.action_prefix else {})

    async def _find(
        self, tx: Transaction, *, since: datetime | None, until: datetime | None, most: int, oldest_first: bool
    ) -> list[Row]:
        if self.text:
            return await tx.connection.fetch(_FIND, self.text, self._others, since, until, oldest_first, most)
        order = table.c.recorded_at if oldest_first else table.c.recorded_at.desc()
        query = (
            select(table.c.seq, table.c.recorded_at, table.c.leaf, table.c.body)
            .where(table.c.tenant_id == uuid.UUID(tx.tenant_id))
            .order_by(order)
            .limit(most)
        )
        for name, value in self.exact.items():
            query = query.where(table.c[name] == value)
        if self.action_prefix:
            query = query.where(func.starts_with(table.c.action, self.action_prefix))
        if since is not None:
            query = query.where(table.c.recorded_at >= since)
        if until is not None:
            query = query.where(table.c.recorded_at < until)
        return await tx.all(query)


async def _bodies(db: Database, places: Sequence[Row], begin: int) -> list[Row]:
    """Give the entries at these places; MonthRetired when some have left."""
    times = places[0]["recorded_at"], places[-1]["recorded_at"]
    async with db.begin() as tx:
        rows = await tx.connection.fetch(_BODIES, tx.tenant_id, [row["seq"] for row in places], *times)
    if len(rows) < len(places):
        await manifests.same(db, begin)
    return rows


async def page(tx: Transaction, request: pb.ListEventsRequest, page: Page) -> pb.ListEventsResponse:
    """Give one page, newest first; what is appended meanwhile comes before the first page."""
    wanted = Filter.of(request)
    await wanted.check(tx)
    before = datetime.fromisoformat(page.after[0]) if page.after is not None else None
    rows = await wanted.newest(tx, before, page.limit)
    shown, token = await entries.show(tx, rows, page, key=lambda row: (row["recorded_at"],))
    return pb.ListEventsResponse(entries=shown, next_page_token=token)


def period(given: Any, begin: str, end: str) -> tuple[datetime | None, datetime | None]:
    """Read two times of a request; what is not set does not limit."""
    since = _moment(getattr(given, begin), begin) if given.HasField(begin) else None
    until = _moment(getattr(given, end), end) if given.HasField(end) else None
    if since is not None and until is not None and since >= until:
        raise RequestInvalid(f"{begin} must be before {end}", fields=begin)
    return since, until


def _moment(given: Timestamp, name: str) -> datetime:
    try:
        return given.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise RequestInvalid(f"{name} must lie in the years 1 to 9999", fields=name) from None


def _least(first: datetime | None, second: datetime | None) -> datetime | None:
    return min(first, second) if first is not None and second is not None else first or second
