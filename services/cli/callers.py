"""Calls as whoever is logged in, and how answers are printed: lines for people, JSON for programs (`--json`)."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.cli import accounts
from services.kit import clock

PAGE = 200
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many to show at most."
)


def ahead(days: int) -> Timestamp:
    """Give the moment so many days ahead, a minute early so that a longest life is not overrun on the way."""
    moment = Timestamp()
    moment.FromDatetime(clock.now() + timedelta(days=days, minutes=-1))
    return moment


def call(kind: Callable[[grpc.aio.Channel], Any], method: str, request: Any) -> Any:
    """Call a method of the auth service with the kept tokens; a change gets a request_id."""
    if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
        request.request_id = str(uuid.uuid4())
    document = accounts.kept()
    metadata = (("authorization", f"Bearer {document['access_token']}"),)
    address = document["address"]
    return accounts.ask(
        address, lambda channel: getattr(kind(channel), method)(request, metadata=metadata), accounts.again(address)
    )


def listed(kind: Callable[[grpc.aio.Channel], Any], method: str, request: Any, limit: int) -> Iterator[Any]:
    """Give up to `limit` resources of a list, page after page."""
    while limit > 0:
        request.page_size = min(limit, PAGE)
        answer = call(kind, method, request)
        resources = getattr(answer, answer.DESCRIPTOR.fields[0].name)
        yield from resources[:limit]
        limit -= len(resources)
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def show(message: Message, *, as_json: bool) -> None:
    """Print one resource, a line for each field that is set."""
    if as_json:
        click.echo(json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None))
        return
    for field, value in message.ListFields():
        click.echo(f"{field.name:<18} {_text(message, field.name, value)}")


def table(messages: Iterator[Any], columns: Sequence[str], *, as_json: bool) -> None:
    """Print resources in columns."""
    found = list(messages)
    if as_json:
        for message in found:
            show(message, as_json=True)
        return
    rows = [[_text(message, name, getattr(message, name)) for name in columns] for message in found]
    widths = [max(len(row[index]) for row in [list(columns), *rows]) for index in range(len(columns))]
    for row in [list(columns), *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not rows:
        click.echo("none")


def _text(message: Message, name: str, value: Any) -> str:
    field = message.DESCRIPTOR.fields_by_name[name]
    if isinstance(value, Timestamp):
        return _moment(value) if message.HasField(name) else "-"
    if isinstance(value, Message):
        return json_format.MessageToJson(value, preserving_proto_field_name=True, indent=None)
    if field.is_repeated:
        return ", ".join(_single(field, item) for item in value) or "-"
    return _single(field, value)


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


def _moment(value: Timestamp) -> str:
    moment: datetime = value.ToDatetime().replace(microsecond=0)
    return f"{moment.isoformat(sep=' ')}Z"
