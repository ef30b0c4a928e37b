"""Envelopes: the canonical text (RFC 8785) of an event, as it is hashed and stored.

Refused before anything is written: numbers that are not integers within 2^53, U+0000, times finer than a microsecond,
more than 32 KiB, another's name as source. Strings stay as they came, not normalised: the log keeps what was said.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import rfc8785
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct, Value

from services.audit import openings
from services.audit.verifier import log_name
from services.kit.access import SYSTEM_TENANT
from services.kit.canonical import LARGEST_INTEGER, NotCanonical
from services.kit.commitments import Opening
from services.kit.faults import InvalidArgument, PermissionDenied
from triptych.audit.v1 import event_pb2
from triptych.common.v1.principal_pb2 import PrincipalKind

VERSION = 1
SUPER_TENANT = "ffffffff-ffff-ffff-ffff-ffffffffffff"
"""Whose head, tiles and checkpoints those of the super-log are; it takes no events."""
LARGEST_PAYLOAD = 32 * 1024
KINDS = {
    PrincipalKind.PRINCIPAL_KIND_USER: "user",
    PrincipalKind.PRINCIPAL_KIND_AGENT: "agent",
    PrincipalKind.PRINCIPAL_KIND_SERVICE: "service",
}
PRINCIPALS = {name: kind for kind, name in KINDS.items()}


class EventInvalid(InvalidArgument):
    """The event has no canonical form."""

    def __init__(self, event_id: str, problem: str) -> None:
        super().__init__(f"event {event_id}: {problem}", event_id=event_id, problem=problem)


class SourceForged(PermissionDenied):
    """A service reports in another's name."""


class Envelope(NamedTuple):
    """An event that may enter the log, all but its place there."""

    tenant_id: str
    event_id: str
    source: str
    source_seq: int
    entity: str
    action: str
    actor_kind: str
    actor_id: str
    correlation_id: str
    occurred_at: datetime
    front: str
    """Canonical text up to where prev_hash, recorded_at and seq stand; they are neighbours in it."""
    back: str
    content_hash: bytes
    """Digest of everything but the place in the log; tells a repetition from a conflict."""
    openings: tuple[Opening, ...] = ()
    """Personal values; the text has commitments to them."""

    def body(self, *, seq: int, recorded_at: datetime, prev_hash: str) -> str:
        """Give the canonical text at a place in the log."""
        moment = text_of(recorded_at)
        return f'{self.front}"prev_hash":"{prev_hash}","recorded_at":"{moment}","seq":{seq},{self.back}'


def accept(events: Iterable[event_pb2.AuditEvent], *, source: str) -> list[Envelope]:
    """Check all events of a call and give their envelopes; one that is bad refuses the call."""
    accepted = [_accept(event, source) for event in events]
    seen: dict[tuple[str, str], bytes] = {}
    for envelope in accepted:
        first = seen.setdefault((envelope.tenant_id, envelope.event_id), envelope.content_hash)
        if first != envelope.content_hash:
            raise EventInvalid(envelope.event_id, "event_id: the call has it twice, with different content")
    return accepted


def compose(
    *,
    tenant_id: str,
    event_id: str,
    source: str,
    source_seq: int,
    entity: str,
    action: str,
    actor: tuple[str, str],
    correlation_id: str,
    occurred_at: datetime,
    payload: Mapping[str, Any],
    opened: tuple[Opening, ...] = (),
) -> Envelope:
    """Make an envelope of plain values; NotCanonical when they have no canonical form."""
    kind, actor_id = actor
    texts = {"entity": entity, "actor.id": actor_id, "correlation_id": correlation_id}
    for name, text in texts.items():
        _text(text, name)
    # All these names sort before prev_hash, recorded_at and seq, and those of `back` after them.
    front = _encode(
        {
            "action": action,
            "actor_id": actor_id,
            "actor_kind": kind,
            "correlation_id": correlation_id,
            "entity": entity,
            "event_id": event_id,
            "log_id": log_name(tenant_id),
            "occurred_at": text_of(occurred_at),
            "payload": payload,
        }
    )
    if len(front) > LARGEST_PAYLOAD and (length := len(_encode(payload))) > LARGEST_PAYLOAD:
        raise NotCanonical("payload", f"it has {length} bytes as canonical JSON; at most {LARGEST_PAYLOAD}")
    back = _encode({"source": source, "source_seq": source_seq, "v": VERSION})[1:]
    front = front[:-1] + b","
    return Envelope(
        tenant_id=tenant_id,
        event_id=event_id,
        source=source,
        source_seq=source_seq,
        entity=entity,
        action=action,
        actor_kind=kind,
        actor_id=actor_id,
        correlation_id=correlation_id,
        occurred_at=occurred_at,
        front=front.decode(),
        back=back.decode(),
        content_hash=hashlib.sha256(front + back).digest(),
        openings=opened,
    )


def text_of(moment: datetime) -> str:
    """Write a moment so that texts compare as moments do."""
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def moment_of(text: str) -> datetime:
    """Read what text_of wrote."""
    return datetime.fromisoformat(text)


def to_event(envelope: Mapping[str, Any], opened: Iterable[Opening] = ()) -> event_pb2.AuditEvent:
    """Give the event of a parsed body, into whose payload these personal values were put."""
    log_id = envelope["log_id"]
    event = event_pb2.AuditEvent(
        event_id=envelope["event_id"],
        tenant_id="" if log_id == "system" else log_id,
        source=envelope["source"],
        source_seq=envelope["source_seq"],
        entity=envelope["entity"],
        action=envelope["action"],
        correlation_id=envelope["correlation_id"],
    )
    event.occur_time.FromDatetime(moment_of(envelope["occurred_at"]))
    event.actor.kind = PRINCIPALS[envelope["actor_kind"]]
    event.actor.id = envelope["actor_id"]
    event.payload.update(envelope["payload"])
    for opening in opened:
        ParseDict(opening.value, event.openings.add(path=opening.path, salt=opening.salt).value)
    return event


def _accept(event: event_pb2.AuditEvent, source: str) -> Envelope:
    if event.source != source:
        raise SourceForged(
            f"event {event.event_id} names {event.source} as its source; {source} may report for itself only",
            event_id=event.event_id,
        )
    if event.tenant_id.lower() == SUPER_TENANT:
        raise EventInvalid(event.event_id, "tenant_id: nothing is reported to the log of the logs")
    try:
        payload = _object(event.payload, "payload")
        return compose(
            tenant_id=event.tenant_id.lower() or SYSTEM_TENANT,
            event_id=event.event_id.lower(),
            source=source,
            source_seq=_within(event.source_seq, "source_seq"),
            entity=event.entity,
            action=event.action,
            actor=(KINDS[event.actor.kind], event.actor.id),
            correlation_id=event.correlation_id,
            occurred_at=_moment(event),
            payload=payload,
            opened=openings.match(payload, map(_opening, event.openings)),
        )
    except NotCanonical as bad:
        raise EventInvalid(event.event_id, str(bad)) from None


def _encode(value: Mapping[str, Any]) -> bytes:
    """Encode what passed the gate. orjson sorts names by UTF-8, RFC 8785 by UTF-16: the same for ASCII."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return text if text.isascii() or _ascii_names(value) else rfc8785.dumps(value)


def _ascii_names(value: Any) -> bool:
    if isinstance(value, dict):
        return all(name.isascii() for name in value) and all(map(_ascii_names, value.values()))
    return not isinstance(value, list) or all(map(_ascii_names, value))


def _moment(event: event_pb2.AuditEvent) -> datetime:
    if event.occur_time.nanos % 1000:
        raise NotCanonical("occur_time", "it is finer than a microsecond")
    try:
        return event.occur_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise NotCanonical("occur_time", "it is outside the years 1 to 9999") from None


def _opening(given: event_pb2.Opening) -> Opening:
    return Opening(_text(given.path, "openings.path"), given.salt, _value(given.value, f"openings{given.path}"))


def _object(struct: Struct, path: str) -> dict[str, Any]:
    found = {}
    for name, item in struct.fields.items():
        if "\0" in name:
            _text(name, path)
        kind = item.WhichOneof("kind")
        if kind == "string_value":  # most are
            text = item.string_value
            found[name] = text if "\0" not in text else _text(text, f"{path}.{name}")
        else:
            found[name] = _other(kind, item, f"{path}.{name}")
    return found


def _value(value: Value, path: str) -> Any:
    kind = value.WhichOneof("kind")
    return _text(value.string_value, path) if kind == "string_value" else _other(kind, value, path)


def _other(kind: str | None, value: Value, path: str) -> Any:
    if kind == "number_value":
        return _integer(value.number_value, path)
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return _object(value.struct_value, path)
    if kind == "list_value":
        return [_value(item, f"{path}[{index}]") for index, item in enumerate(value.list_value.values)]
    return None


def _integer(number: float, path: str) -> int:
    if not number.is_integer():
        raise NotCanonical(path, f"{number!r} is no integer; write other numbers as strings")
    return _within(int(number), path)


def _within(number: int, path: str) -> int:
    if abs(number) > LARGEST_INTEGER:
        raise NotCanonical(path, f"{number} is not within 2^53; write it as a string")
    return number


def _text(text: str, path: str) -> str:
    if "\0" in text:
        raise NotCanonical(path, "a string must not contain U+0000")
    return text
