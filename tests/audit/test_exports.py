"""Exports under way: a month that leaves the log meanwhile, and how much is held at once."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from services.audit import entries, exports, manifests, openings, selections, sheets, verifier
from services.audit.searches import Filter
from services.kit import access, calls
from services.kit.access import SYSTEM_TENANT
from tests.audit.events import Log, event, every, log_of
from tests.audit.months import Past
from tests.audit.values import personal
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.filter_pb2 import EventFilter

EXPORT = "/triptych.audit.v1.AuditService/ExportEvents"


@contextmanager
def exporting(log: Log) -> Iterator[None]:
    """Be an ExportEvents of the log's admin."""
    caller = access.Caller(kind="user", id=log.person.id, tenant_id=log.tenant_id)
    method = access.methods(["triptych.audit.v1.AuditService"])[EXPORT]
    call = calls.Call(method, "x", "", "", asyncio.get_running_loop().time() + 600, caller)
    mark = calls._current.set(call)
    try:
        yield
    finally:
        calls._current.reset(mark)


async def stream(then: Past, form: str, size: int | None = None) -> AsyncIterator[bytes]:
    """Give the lines of an export as the service makes them, up to a checkpoint."""
    async with then.db.begin(tenant=then.log.tenant_id) as tx:
        query = "SELECT * FROM checkpoints WHERE $1::bigint IS NULL OR size = $1 ORDER BY size DESC LIMIT 1"
        (checkpoint,) = await tx.connection.fetch(query, size)
    facts: dict[str, object] = {"origin": verifier.ORIGIN}
    if form == "whole":
        return exports._whole(then.db, checkpoint, facts, with_openings=True)
    wanted = Filter.of(EventFilter(source="projects"))
    if form == "csv":
        return sheets.lines(then.db, wanted, checkpoint["size"], with_openings=True)
    return selections.lines(then.db, wanted, checkpoint, verifier.ORIGIN, with_openings=True)


async def prepare(then: Past, *months: Any) -> None:
    """Have these months ready to leave."""
    for month in months:
        for log in await then.superuser.fetch("SELECT * FROM audits.logs_of_month($1)", month):
            await then.retirements._manifest(month, log)
        await then.sign()


@pytest.mark.parametrize("form", ["whole", "chosen", "csv"])
async def test_a_month_that_leaves_during_an_export_ends_it_with_that_reason(
    then: Past, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (exports, selections, sheets):
        monkeypatch.setattr(module, "ROWS", 3)
    await then.log.verify()
    await prepare(then, *then.months)
    with exporting(then.log):
        lines = await stream(then, form)
        for _ in range(4):
            assert await anext(lines)
        await then.retire(*then.months)
        with pytest.raises(manifests.MonthRetired):
            async for _ in lines:
                pass


async def test_an_export_whose_last_entries_leave_does_not_end_as_if_it_were_whole(
    then: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "ROWS", 3)
    await then.log.verify()
    async with then.db.begin(tenant=then.log.tenant_id) as tx:
        await tx.connection.execute(
            "INSERT INTO checkpoints SELECT tenant_id, 20, root, note, signature, key_version, public_key, sign_time"
            " FROM checkpoints ORDER BY size DESC LIMIT 1 ON CONFLICT DO NOTHING"
        )
    await prepare(then, *then.months)
    with exporting(then.log):
        lines = await stream(then, "whole", 20)  # as one that was signed when the last of two months was the newest
        assert await anext(lines)
        assert await anext(lines)
        await then.retire(*then.months)
        with pytest.raises(manifests.MonthRetired):
            async for _ in lines:
                pass


async def test_a_month_that_left_before_its_first_line_is_not_missed(then: Past) -> None:
    await then.log.verify()
    await prepare(then, then.months[0])
    with exporting(then.log):
        lines = await stream(then, "whole")
        header = json.loads(await anext(lines))
        await then.retire(then.months[0])
        with pytest.raises(manifests.MonthRetired):
            async for _ in lines:
                pass
    assert "resume" not in header
    fresh = (await then.log.export()).splitlines(keepends=True)
    assert verifier.verify(fresh).verdict == "unanchored"  # good, but for a key from elsewhere


@pytest.mark.parametrize("form", [pb.EXPORT_FORMAT_JSON_LINES, pb.EXPORT_FORMAT_CSV])
@pytest.mark.parametrize("chosen", [False, True])
async def test_values_are_read_in_parts_of_bounded_size_and_all_come_out(
    log: Log, monkeypatch: pytest.MonkeyPatch, form: Any, *, chosen: bool
) -> None:
    for number in range(1, 41):
        made = personal(log.tenant_id, number, {"a": "x" * 3000, "b": f"value {number}"}, "/a", "/b")
        await log.send(made if number % 4 else event(log.tenant_id, number))
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK
    monkeypatch.setattr(openings, "PART_BYTES", 10_000)
    held: list[int] = []
    real = openings._by_seq

    def by_seq(rows: Sequence[Any]) -> Any:
        held.append(sum(len(row["value"]) for row in rows))
        return real(rows)

    monkeypatch.setattr(openings, "_by_seq", by_seq)
    wanted = EventFilter(source="projects") if chosen else None
    request = pb.ExportEventsRequest(format=form, with_openings=True, filter=wanted)
    data = b"".join([message.chunk for message in await every(log.reader.ExportEvents(request))])
    assert all(f"value {number}".encode() in data for number in range(1, 41) if number % 4)
    assert len(held) > 5
    assert max(held) < 10_000 + 3100
    if form == pb.EXPORT_FORMAT_JSON_LINES:
        assert verifier.verify(data.splitlines(keepends=True)).verdict == "unanchored"


async def test_a_batch_of_large_bodies_is_short_and_none_is_lost(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "LARGEST_BATCH", 10_000)
    await log.grow(30, payload={"text": "x" * 3000})
    db = log.suite.runtimes["audit"].db
    batches = [rows async for rows in entries.walk(db, 0, 30, most=200, tenant=log.tenant_id)]
    assert [row["seq"] for rows in batches for row in rows] == list(range(30))
    assert max(len(rows) for rows in batches) <= 4


async def test_the_logs_of_others_are_in_no_part(log: Log) -> None:
    await log.send(personal(log.tenant_id, 1, {"a": "secret"}, "/a"))
    stranger = await log_of(log.suite, log.suite.person())
    await stranger.send(personal(stranger.tenant_id, 1, {"a": "other"}, "/a"))
    db = log.suite.runtimes["audit"].db
    async with db.begin(tenant=stranger.tenant_id) as tx:
        found = await tx.connection.fetch(openings._PART, uuid.UUID(log.tenant_id), [0], 1000)
    assert found == []
    assert stranger.tenant_id != SYSTEM_TENANT
