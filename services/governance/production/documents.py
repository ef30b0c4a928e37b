"""JSON documents inside messages: how large they may be, and how many rows that hold some fit into one answer.

Measured twice: as canonical JSON, which is what people count, and on the wire, where a list of small numbers takes
several times as much and would not pass the 4 MiB that a client accepts.
"""

from collections.abc import Iterable
from typing import Any

from google.protobuf.struct_pb2 import Struct

from services.kit import canonical, faults
from services.kit.faults import InvalidArgument

METADATA, INPUT, RESULT = 16 * 1024, 64 * 1024, 1024 * 1024
WIRE_FACTOR = 3
"""Times the limit that a document may take on the wire."""
ANSWER = 512 * 1024
"""Bytes of documents after which an answer takes no further row; the last one may exceed it by its own size."""


class DocumentTooLarge(InvalidArgument):
    """A JSON field is larger than its limit."""


def read(field: str, document: Struct, limit: int) -> dict[str, Any]:
    """Give a document as plain values, in the one form that it is stored in."""
    try:
        plain: dict[str, Any] = canonical.clean(canonical.plain(document))
        size = len(canonical.encode(plain))
    except canonical.NotCanonical as problem:
        raise _refusal(field, str(problem)) from None
    if size > limit or document.ByteSize() > WIRE_FACTOR * limit:
        raise DocumentTooLarge(
            f"{field} has {size} bytes as JSON, {document.ByteSize()} on the wire;"
            f" at most {limit} and {WIRE_FACTOR * limit} are taken: store the rest as an artifact",
            field=field,
            limit=limit,
        )
    return plain


def fitting(sizes: Iterable[int]) -> int:
    """Say how many rows of these sizes go into one answer; the first always does."""
    count, total = 0, 0
    for size in sizes:
        if count and total >= ANSWER:
            break
        count, total = count + 1, total + size
    return max(count, 1)


def _refusal(field: str, problem: str) -> faults.RequestInvalid:
    return faults.RequestInvalid(f"{field}: {problem}", violations={field: problem}, fields=field)
