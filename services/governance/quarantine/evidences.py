"""Evidence: what proves a failure, or speaks for another try. It says something, is canonical JSON, at most 256 KiB."""

import hashlib
from typing import Any

from google.protobuf.struct_pb2 import Struct

from services.kit import canonical
from services.kit.faults import InvalidArgument, RequestInvalid

LARGEST = 256 * 1024


class EvidenceEmpty(InvalidArgument):
    """Evidence without a single value in it."""


def read(evidence: Struct) -> dict[str, Any]:
    """Give evidence as plain values in the form that is sealed, or raise."""
    try:
        cleaned: dict[str, Any] = canonical.clean(canonical.plain(evidence))
        size = len(canonical.encode(cleaned))
    except canonical.NotCanonical as error:
        raise _invalid(f"must be canonical JSON: {error}") from None
    if not _says(cleaned):
        raise EvidenceEmpty("evidence must say something: give metrics, items or comparisons that prove it")
    if size > LARGEST:
        raise _invalid(f"is {size} bytes as canonical JSON and may have {LARGEST}; store the rest as an artifact")
    return cleaned


def digest(evidence: Any) -> str:
    """Give the SHA-256 that stands for evidence in the audit log, where there is no room for the whole."""
    return hashlib.sha256(canonical.encode(evidence)).hexdigest()


def _says(value: Any) -> bool:
    """An empty container, an empty text and null say nothing, however they are wrapped."""
    if isinstance(value, dict):
        return any(_says(item) for item in value.values())
    if isinstance(value, list):
        return any(_says(item) for item in value)
    return value is not None and value != ""


def _invalid(problem: str) -> RequestInvalid:
    return RequestInvalid(f"evidence: {problem}", violations={"evidence": problem}, fields="evidence")
