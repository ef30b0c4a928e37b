"""`triptych audit search`, `timeline`, `stats`, `redact`, `retirements`, `sources`: asked of a running service."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import click
from google.protobuf import json_format

from services.cli import callers
from services.cli.choices import Entity, Moment, choosing, chosen
from services.cli.connections import Connection, connected
from services.cli.links import pages
from services.cli.numbers import Whole
from services.kit.words import Words
from triptych.audit.v1 import (
    audit_service_pb2 as pb,
    event_pb2,
    redaction_service_pb2 as redaction_pb,
    redaction_service_pb2_grpc as redaction_grpc,
    retention_service_pb2 as retention_pb,
    retention_service_pb2_grpc as retention_grpc,
    source_service_pb2 as source_pb,
    source_service_pb2_grpc as source_grpc,
)

LARGEST_EXACT = 2**53
DIMENSIONS = {
    "day": pb.STATISTIC_DIMENSION_DAY,
    "source": pb.STATISTIC_DIMENSION_SOURCE,
    "action": pb.STATISTIC_DIMENSION_ACTION,
}
Connect = Callable[[], Connection]
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
_limit = click.option("--limit", type=Whole(1, 100_000), default=50, show_default=True, help="Most to show.")


@click.command()
@click.argument("text", required=False)
@choosing
@_limit
@_json
@connected
def search(connect: Connect, text: str | None, limit: int, *, as_json: bool, **fields: Any) -> None:
    """List entries, newest first: those with the words of TEXT, or all.

    "In quotation marks" for words in sequence, or between alternatives, -word for what must not occur.
    """
    request = pb.ListEventsRequest(text=text or "", **chosen(fields))
    _print(_listed(connect, "ListEvents", request, limit), _print_entry, as_json=as_json)


@click.command()
@click.argument("entity", type=Entity(), metavar="KIND:ID")
@click.option("--from", "start_time", type=Moment(), help="Happened at or after this time (UTC).")
@click.option("--until", "end_time", type=Moment(), help="Happened before this time (UTC).")
@_limit
@_json
@connected
def timeline(connect: Connect, entity: str, limit: int, *, as_json: bool, **fields: Any) -> None:
    """List what happened to an entity, across services, in the order in which it happened."""
    request = pb.ListTimelineRequest(entity=entity, **chosen(fields))
    _print(_listed(connect, "ListTimeline", request, limit), _print_entry, as_json=as_json)


@click.command()
@click.option("--by", multiple=True, type=click.Choice(sorted(DIMENSIONS)), help="Count by; all three when left out.")
@click.option("--from", "start_day", help="First day (UTC), for instance 2026-08-01.")
@click.option("--until", "end_day", help="Last day (UTC).")
@click.option("--source", help="Reported by this service.")
@click.option("--prefix", "action_prefix", help="Actions that begin so.")
@_limit
@_json
@connected
def stats(connect: Connect, by: tuple[str, ...], limit: int, *, as_json: bool, **fields: Any) -> None:
    """Count entries by day, source and action; also of months that have left the log."""
    request = pb.GetStatisticsRequest(group_by=[DIMENSIONS[name] for name in dict.fromkeys(by)], **chosen(fields))
    _print(_listed(connect, "GetStatistics", request, limit), _print_count, as_json=as_json)


@click.command()
@click.option("--event", "event_id", help="Erase the personal values of this event.")
@click.option("--path", "paths", multiple=True, help="Only this one, as JSON Pointer; may be repeated.")
@click.option("--subject", help="Erase those of everything about somebody, for instance user:0197…")
@click.option(
    "--value",
    "values",
    multiple=True,
    help="With --subject: also values that are exactly this, for instance an address.",
)
@click.option("--reason", required=True, help="Why; it is written into the log.")
@connected
def redact(
    connect: Connect, *, event_id: str | None, paths: tuple[str, ...], subject: str | None, values: tuple[str, ...],
    reason: str,
) -> None:  # fmt: skip
    """Erase personal values for good. All proofs still hold; the log tells who did it and why."""
    if (event_id is None) == (subject is None) or (paths and subject) or (values and event_id):
        raise click.UsageError("give either --event (with --path) or --subject (with --value)")
    if subject is not None and ":" not in subject:
        raise click.UsageError(
            f"a subject is a kind and an id, as entries have it: user:0197…, address:{subject}; where {subject} itself"
            " is a value, it is erased with --value as well"
        )
    connection = connect()
    connection.serve(redaction_grpc.RedactionServiceStub)
    answer: Any
    if event_id is not None:
        request = redaction_pb.RedactEventRequest(event_id=event_id, paths=paths, reason=reason)
        answer = connection.call("RedactEvent", request)
    else:
        request_of_all = redaction_pb.RedactSubjectRequest(subject=subject or "", values=values, reason=reason)
        answer = connection.call("RedactSubject", request_of_all)
    click.echo(f"{answer.erased} values erased; recorded as {answer.redaction_event_id}")


@click.command()
@_limit
@_json
@connected
def retirements(connect: Connect, limit: int, *, as_json: bool) -> None:
    """List the months that have left the log, and their archives."""
    request, stub = retention_pb.ListRetirementsRequest(), _of(connect, retention_grpc.RetentionServiceStub)
    _print(_listed(stub, "ListRetirements", request, limit), _print_retirement, as_json=as_json)


@click.command()
@_limit
@_json
@connected
def sources(connect: Connect, limit: int, *, as_json: bool) -> None:
    """List what came of each service and what is missing; for admins of the installation (`bootstrap-admin`)."""
    request, stub = source_pb.ListSourcesRequest(), _of(connect, source_grpc.SourceServiceStub)
    _print(_listed(stub, "ListSources", request, limit), _print_source, as_json=as_json)


def _of(connect: Connect, kind: Any) -> Connect:
    """Connect to another gRPC service of audit."""

    def stub() -> Connection:
        connection = connect()
        connection.serve(kind)
        return connection

    return stub


def _listed(connect: Connect, method: str, request: Any, limit: int) -> Iterator[Any]:
    """Give up to `limit` of a list, page after page."""
    return pages(lambda: connect().call(method, request), request, limit)


def _print(found: Iterator[Any], show: Callable[[Any], None], *, as_json: bool) -> None:
    """Print what was found; a person is told when that is nothing."""
    nothing = True
    for item in found:
        nothing = False
        if as_json:
            click.echo(json.dumps(_whole(json_format.MessageToDict(item, preserving_proto_field_name=True))))
        else:
            show(item)
    if nothing and not as_json:
        click.echo("none")


def _print_entry(entry: event_pb2.LogEntry) -> None:
    event = entry.event
    named = f"{event.action}  {event.entity}  {event.actor.id}  {event.event_id}"
    click.echo(f"{entry.seq:>8}  {callers.moment(event.occur_time)}  {named}")
    if event.payload.fields:
        click.echo(f"          {json.dumps(_whole(json_format.MessageToDict(event.payload)), ensure_ascii=False)}")


def _print_count(item: pb.Statistic) -> None:
    named = "  ".join(value for value in (item.day, item.source, item.action) if value)
    click.echo(f"{item.events:>10}  {named}")


def _print_retirement(item: retention_pb.Retirement) -> None:
    state = Words(retention_pb.RetirementState).word(item.state)
    click.echo(f"{item.month}  entries {item.begin_seq} to {item.end_seq - 1}  {state}")
    for archive in item.archives:
        end = "deleted" if archive.HasField("delete_time") else f"until {archive.expire_time.ToJsonString()[:10]}"
        click.echo(f"         {archive.name}  {archive.entries} entries, {end}")


def _print_source(item: source_pb.Source) -> None:
    lacking = [f"{item.gaps} missing between"] if item.gaps else []
    lacking += [f"{item.undelivered} given and not delivered"] if item.undelivered else []
    heard = f"heard {item.silence.seconds} s ago" if item.HasField("silence") else "never heard"
    text = ", ".join(lacking) or "complete"
    mark = "  ALARM" if item.alarming else ""
    click.echo(f"{item.source:<12} {item.log_id:<36}  {item.events} up to {item.last_seq}, {text}, {heard}{mark}")


def _whole(value: Any) -> Any:
    """Give a payload its integers back: a protobuf Struct has only doubles, which are exact below 2**53."""
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT:
        return int(value)
    return value
