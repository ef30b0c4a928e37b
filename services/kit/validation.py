"""Shape of requests, as their protos state it (protovalidate): checked once, at the edge, all violations at a time."""

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from services.kit import faults

_validator = Validator()


def check(message: Message) -> None:
    """Raise RequestInvalid with a violation for each field that is out of shape."""
    found = _validator.collect_violations(message)
    if found:
        violations = {_path(violation): violation.proto.message for violation in found}
        raise faults.RequestInvalid(
            "; ".join(f"{path}: {text}" for path, text in violations.items())[:500],
            violations=violations,
            fields=",".join(violations),
        )


def _path(violation: Violation) -> str:
    """Write a field path as people do: results[3].item_id."""
    parts: list[str] = []
    for element in violation.proto.field.elements if violation.proto.field is not None else ():
        part = element.field_name
        subscript = element.subscript
        parts.append(f"{part}[{subscript.value}]" if subscript is not None else part)
    return ".".join(parts) or "request"
