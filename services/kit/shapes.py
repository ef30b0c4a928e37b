"""The commonest shapes of requests, looked at without the engine of rules: ids, lengths, bounds of whole numbers.

What passes here passes protovalidate too; about everything else it is asked. Most requests hold little more than an id,
and the engine costs several times as much, less for what it does than for the code and data that it brings along.
"""

import operator
import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from buf.validate import validate_pb2

UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
IF_ZERO: int = validate_pb2.Ignore.Value("IGNORE_IF_ZERO_VALUE")  # type: ignore[attr-defined]
Test: TypeAlias = Callable[[Any], Any]
Plan: TypeAlias = tuple[tuple[str, ...], tuple[tuple[str, Test], ...]]


class _Unknown(Exception):
    """A field has a rule that is not known here."""


def plain(message: Message) -> bool:
    """Say that a message is in shape; False says nothing."""
    plan = _plan(message.DESCRIPTOR)
    if plan is None:
        return False
    for name in plan[0]:
        if message.HasField(name):
            return False
    for name, fits in plan[1]:  # noqa: SIM110 - a generator would cost as much as the rest
        if not fits(getattr(message, name)):
            return False
    return True


@cache
def _plan(descriptor: Descriptor) -> Plan | None:
    """Messages that must not be set, and tests of other fields; None for a message that is always for protovalidate."""
    if descriptor.GetOptions().ListFields() or any(oneof.GetOptions().ListFields() for oneof in descriptor.oneofs):
        return None
    messages = [field for field in descriptor.fields if field.message_type is not None and not field.is_repeated]
    others = [field for field in descriptor.fields if field not in messages]
    if any("required" in _rules(field) for field in messages):
        return None
    try:
        tests = [(field.name, _test(field)) for field in others]
    except _Unknown:
        return None
    return tuple(field.name for field in messages), tuple((name, test) for name, test in tests if test is not None)


def _test(field: FieldDescriptor) -> Test | None:
    rules = _rules(field)
    ignored = rules.pop("ignore", 0)
    if ignored not in (0, IF_ZERO):
        raise _Unknown
    if field.is_repeated:
        if rules.keys() - {"repeated"} or (rules and rules["repeated"].min_items):
            raise _Unknown
        return operator.not_
    if not rules:
        return None
    kind, values = rules.popitem()
    if rules or kind not in _TESTS:
        raise _Unknown
    test = _TESTS[kind]({rule.name: value for rule, value in values.ListFields()})
    return partial(_zero_or, test) if ignored == IF_ZERO else test


def _rules(field: FieldDescriptor) -> dict[str, Any]:
    found = field.GetOptions().Extensions[validate_pb2.field]  # type: ignore[attr-defined]
    return {rule.name: value for rule, value in found.ListFields()}


def _zero_or(test: Test, value: Any) -> Any:
    return not value or test(value)


def _string(rules: dict[str, Any]) -> Test:
    if rules == {"uuid": True}:
        return UUID.fullmatch
    if not rules or rules.keys() - {"min_len", "max_len"}:
        raise _Unknown
    return partial(_between, rules.get("min_len", 0), rules.get("max_len", 2**63))


def _between(least: int, most: int, text: str) -> bool:
    return least <= len(text) <= most


def _integer(rules: dict[str, Any]) -> Test:
    if not rules or rules.keys() - {"gte", "lte"} or rules.get("gte", 0) > rules.get("lte", 2**63):
        raise _Unknown
    return partial(_within, rules.get("gte", -(2**63)), rules.get("lte", 2**63))


def _within(least: int, most: int, number: int) -> bool:
    return least <= number <= most


_TESTS: dict[str, Callable[[dict[str, Any]], Test]] = {"string": _string, "int32": _integer, "int64": _integer}
