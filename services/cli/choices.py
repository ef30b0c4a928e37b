"""Options of `triptych audit` that choose entries, and the requests and files that come of them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from triptych.audit.v1 import audit_service_pb2 as pb

Command = TypeVar("Command", bound=Callable[..., Any])


class Moment(click.ParamType[Timestamp]):
    """A day or a moment; without an offset it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Timestamp:
        """Read it."""
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time: give 2026-08-01 or 2026-08-01T12:30:00+02:00", param, ctx)
        made = Timestamp()
        made.FromDatetime(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
        return made


class Entity(click.ParamType[str]):
    """KIND:ID."""

    name = "kind:id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form: nothing can have been recorded about anything else."""
        kind, _, identity = str(value).partition(":")
        if not kind or not identity or any(character.isspace() for character in value):
            self.fail(f"{value!r} is no entity: give KIND:ID, for instance project:0197… or user:0197…", param, ctx)
        return str(value)


def choosing(command: Command) -> Command:
    """Add the options that say which entries are meant; they are fields of the requests."""
    for option in (
        click.option("--until", "end_time", type=Moment(), help="Recorded before this time (UTC)."),
        click.option("--from", "start_time", type=Moment(), help="Recorded at or after this time (UTC)."),
        click.option("--source", help="Reported by this service."),
        click.option("--request", "correlation_id", help="Of this request, across services."),
        click.option("--actor", "actor_id", help="Done by this person, agent or service (id)."),
        click.option("--prefix", "action_prefix", help="Actions that begin so, for instance projects.policy."),
        click.option("--action", help="This action."),
        click.option("--entity", help="About this, for instance project:0197…"),
    ):
        command = option(command)
    return command


def chosen(values: dict[str, Any]) -> dict[str, Any]:
    """Give the fields that were set."""
    return {name: value for name, value in values.items() if value is not None}


def output(fields: dict[str, Any], *, text: str | None, as_csv: bool, personal: bool) -> pb.ExportEventsRequest:
    """Give the request of an export."""
    wanted = chosen(fields) | ({"text": text} if text else {})
    request = pb.ExportEventsRequest(with_openings=personal)
    request.format = pb.EXPORT_FORMAT_CSV if as_csv else pb.EXPORT_FORMAT_JSON_LINES
    if wanted:
        json_fields = {name: value for name, value in wanted.items() if not isinstance(value, Timestamp)}
        json_format.ParseDict(json_fields, request.filter)
        for name in wanted.keys() - json_fields.keys():
            getattr(request.filter, name).CopyFrom(wanted[name])
    return request


def described(file: Path) -> str:
    """Say what is in an export that holds a choice of entries."""
    with file.open("rb") as lines:
        first = lines.readline()
    if not first.startswith(b"{"):
        return "a table, which proves nothing"
    header = json.loads(first)
    return f"entries of log {header['log_id']}, each with its proof, signed {header['checkpoint']['signed_at']}"
