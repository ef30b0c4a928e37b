"""Configurations: what a configuration does, as one hash, however its JSON was written. Pure.

Defaults of the project lie beneath it; nulls, `name` and `description` do not count.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from services.kit import canonical
from services.kit.faults import InvalidArgument

DOMAIN = "triptych.configuration.v1"
LARGEST = 64 * 1024
"""Bytes of the canonical form."""
LABELS = ("name", "description")
"""Names of the top level that say nothing about behaviour."""


class ConfigurationInvalid(InvalidArgument):
    """The configuration has no canonical form."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}", path=path)


def read(struct: Struct) -> dict[str, Any]:
    """Give a configuration as plain values, as it was written; refuse one that has no canonical form."""
    given = values(struct)
    _clean(given)
    return given


def digest(configuration: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Give the hash of a configuration's behaviour."""
    # Names are normalised before they meet: a default must lie beneath its name in any Unicode form.
    merged = _merge(_without_nulls(_clean(defaults)), _without_nulls(_clean(configuration)))
    behaviour = {name: value for name, value in merged.items() if name not in LABELS}
    if len(canonical.encode(behaviour)) > LARGEST:
        raise ConfigurationInvalid("$", "the configuration is larger than 64 KiB as canonical JSON")
    return canonical.digest(DOMAIN, behaviour).hex()


def _clean(given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        cleaned: dict[str, Any] = canonical.clean(given)
    except canonical.NotCanonical as error:
        raise ConfigurationInvalid(error.path.removeprefix("$."), error.problem) from None
    return cleaned


def _merge(beneath: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(beneath)
    for name, value in above.items():
        lower = merged.get(name)
        merged[name] = _merge(lower, value) if isinstance(lower, dict) and isinstance(value, dict) else value
    return merged


def _without_nulls(value: Any) -> Any:
    """Take members out that are null; in a list a null keeps its place."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def values(struct: Struct) -> dict[str, Any]:
    """Give a Struct as plain values, read by hand: protobuf's own reader fails on NaN without saying where."""
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    given = getattr(value, kind) if kind is not None and kind != "null_value" else None
    if isinstance(given, Struct):
        return values(given)
    if isinstance(given, ListValue):
        return [_value(item) for item in given.values]
    return given
