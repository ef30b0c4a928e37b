"""Calls as whoever is logged in, and how answers are printed: lines for people, JSON for programs (`--json`)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any, TypeAlias

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.cli import links
from services.cli.numbers import Whole
from services.kit import clock
from services.kit.words import Words
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind

Columns: TypeAlias = Sequence[str] | Mapping[str, Callable[[Any], str] | None]
"""Fields of a message, or headings with what makes a cell of it; None: the field of that name."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
limit_option = click.option(
    "--limit", type=Whole(1, 100_000), default=100, show_default=True, help="How many to show at most."
)


def ahead(days: int) -> Timestamp:
    """Give the moment so many days ahead, a minute early so that a longest life is not overrun on the way."""
    moment = Timestamp()
    moment.FromDatetime(clock.now() + timedelta(days=days, minutes=-1))
    return moment


def call(kind: Callable[[Any], Any], method: str, request: Any) -> Any:
    """Call a method of the auth service with the kept tokens; a change gets a request_id."""
    return links.auth().call(kind, method, request)


def listed(kind: Callable[[Any], Any], method: str, request: Any, limit: int) -> Iterator[Any]:
    """Give up to `limit` resources of a list of the auth service, page after page as they are wanted."""
    return links.auth().listed(kind, method, request, limit)


def show(message: Message, *, as_json: bool, always: Sequence[str] = ()) -> None:
    """Print one resource, a line for each field that is set, and for those that are always said."""
    if as_json:
        click.echo(json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None))
        return
    said = {field.name for field, _ in message.ListFields()} | set(always)
    for name in message.DESCRIPTOR.fields_by_name:
        if name in said:
            click.echo(f"{name:<22} {text(message, name)}")


def table(messages: Iterable[Any], columns: Columns, *, as_json: bool) -> None:
    """Print resources in columns, page after page; the first page says how wide they are."""
    if as_json:
        for message in messages:
            show(message, as_json=True)
        return
    wanted = dict.fromkeys(columns) if not isinstance(columns, Mapping) else columns
    rows = ([_cell(message, name, make) for name, make in wanted.items()] for message in messages)
    head = list(islice(rows, links.PAGE))
    widths = [max(len(cell) for cell in column) for column in zip(list(wanted), *head, strict=True)]
    for row in chain([list(wanted)], head, rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not head:
        click.echo("none")


def line(message: Message, columns: Sequence[str], *, as_json: bool) -> None:
    """Print one resource of a stream as it comes."""
    if as_json:
        show(message, as_json=True)
        return
    click.echo("  ".join(text(message, name) for name in columns))


def _cell(message: Any, name: str, make: Callable[[Any], str] | None) -> str:
    return make(message) if make is not None else text(message, name)


def text(message: Message, name: str) -> str:
    """Give a field as people read it."""
    return _text(message, name, getattr(message, name))


def _text(message: Message, name: str, value: Any) -> str:
    field = message.DESCRIPTOR.fields_by_name[name]
    if isinstance(value, Timestamp):
        return moment(value) if message.HasField(name) else "-"
    if isinstance(value, Principal):
        return principal(value)
    if isinstance(value, Message):
        return json_format.MessageToJson(value, preserving_proto_field_name=True, indent=None)
    if field.is_repeated:
        return ", ".join(_single(field, item) for item in value) or "-"
    return _single(field, value)


def principal(value: Principal) -> str:
    """Give who is meant, as KIND:ID."""
    return f"{Words(PrincipalKind).word(value.kind)}:{value.id}" if value.id else "-"


def _single(field: Any, value: Any) -> str:
    if field.enum_type is not None:
        if value == 0:
            return "-"
        name: str = field.enum_type.values_by_number[value].name
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        return name.removeprefix(prefix).lower()
    if isinstance(value, Message):
        return json_format.MessageToJson(value, preserving_proto_field_name=True, indent=None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value != "" else "-"


def moment(value: Timestamp) -> str:
    """Give a moment to the second."""
    exact: datetime = value.ToDatetime().replace(microsecond=0)
    return f"{exact.isoformat(sep=' ')}Z"
