"""Shape of requests, checked once, at the edge, all violations at a time.

What their protos state is checked by protovalidate. Beside that, for every message: ids are brought to lower case, so
that one thing has one name; timestamps lie within the years that a date has; JSON nests no deeper than the audit log
can take.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from protovalidate import Validator, Violation

from buf.validate import validate_pb2
from services.kit import faults, shapes

DEEPEST = 16
"""Levels of a JSON field. Each costs protobuf two or three of its 100, here and wherever the field is passed on."""
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799
"""Seconds of the years 1 and 9999 (google.protobuf.Timestamp)."""
_validator = Validator()


def check(message: Message) -> None:
    """Raise RequestInvalid with a violation for each field that is out of shape."""
    violations = {} if shapes.plain(message) else _ruled(message)
    if _plan(message.DESCRIPTOR):
        violations |= dict(_more(message, ""))
    if violations:
        text = "; ".join(f"{path}: {problem}" for path, problem in violations.items())
        raise faults.RequestInvalid(text, violations=violations, fields=",".join(violations))


def _ruled(message: Message) -> dict[str, str]:
    return {_path(violation): violation.proto.message for violation in _validator.collect_violations(message)}


def _path(violation: Violation) -> str:
    """Write a field path as people do: results[3].item_id."""
    parts: list[str] = []
    for element in violation.proto.field.elements if violation.proto.field is not None else ():
        part = element.field_name
        subscript = element.subscript
        parts.append(f"{part}[{subscript.value}]" if subscript is not None else part)
    return ".".join(parts) or "request"


def _more(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    """What no proto states; finds what is wrong, and lowers ids on the way."""
    for name, kind, repeated in _plan(message.DESCRIPTOR):
        value = getattr(message, name)
        if kind == "id":
            if not value.islower():
                setattr(message, name, value.lower())
        elif kind == "ids":
            _lower(value)
        elif repeated:
            for index, item in enumerate(value):
                yield from _one(item, kind, f"{prefix}{name}[{index}]")
        elif message.HasField(name):
            yield from _one(value, kind, prefix + name)


def _lower(messages: Sequence[Message]) -> None:
    """Lower the ids of messages of a kind, of which there may be hundreds, and in which nothing else needs a look."""
    for name, _, _ in _plan(messages[0].DESCRIPTOR) if messages else ():
        for message in messages:
            value = getattr(message, name)
            if not value.islower():
                setattr(message, name, value.lower())


def _one(value: Any, kind: str, path: str) -> Iterator[tuple[str, str]]:
    if kind == "time":
        if not (EARLIEST <= value.seconds <= LATEST and 0 <= value.nanos < 1_000_000_000):
            yield path, "must lie in the years 1 to 9999"
    elif kind == "json":
        if _deeper(value, DEEPEST):
            yield path, f"must not nest deeper than {DEEPEST} levels"
    else:
        yield from _more(value, path + ".")


@cache
def _plan(descriptor: Descriptor) -> tuple[tuple[str, str, bool], ...]:
    """Fields of a message that need a look: name, kind, repeated. Empty for most."""
    found = ((field.name, _kind(field), field.is_repeated) for field in descriptor.fields)
    return tuple((name, kind, repeated) for name, kind, repeated in found if kind)


def _kind(field: FieldDescriptor) -> str:
    if field.message_type is None:
        rules = field.GetOptions().Extensions[validate_pb2.field]  # type: ignore[attr-defined]
        return "id" if rules.string.uuid and not field.is_repeated else ""
    if field.message_type.full_name == Timestamp.DESCRIPTOR.full_name:
        return "time"
    if field.message_type.full_name == Struct.DESCRIPTOR.full_name:
        return "json"
    if not field.message_type.full_name.startswith("triptych."):
        return ""
    kinds = {kind for _, kind, _ in _plan(field.message_type)}
    return "ids" if field.is_repeated and kinds == {"id"} else "message" if kinds else ""


def _deeper(value: Struct | ListValue | Value, levels: int) -> bool:
    """Whether a value nests deeper than so many levels; looks no deeper than that."""
    if isinstance(value, Value):
        kind = value.WhichOneof("kind")
        if kind not in ("struct_value", "list_value"):
            return False
        return _deeper(value.struct_value if kind == "struct_value" else value.list_value, levels)
    inner = value.fields.values() if isinstance(value, Struct) else value.values
    return levels == 0 or any(_deeper(item, levels - 1) for item in inner)
