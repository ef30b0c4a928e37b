"""Updates: etags (AIP-154) and field masks (AIP-134). The merged resource is validated whole, as at its creation."""

import re
from collections.abc import Collection
from typing import Any, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from services.kit import faults, validation

Resource = TypeVar("Resource", bound=Message)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class EtagMismatch(faults.Aborted):
    """The resource changed since it was read."""


class UpdateMaskInvalid(faults.InvalidArgument):
    """The mask names what does not exist or cannot be updated."""


def etag(revision: int) -> str:
    """Give the etag of a revision, quoted as RFC 9110 has it."""
    return f'"{revision}"'


def check_etag(given: str, revision: int) -> None:
    """Raise unless the etag is empty or of this revision."""
    if given and given != etag(revision):
        raise EtagMismatch("the resource has changed since its etag was read; read it again", etag=etag(revision))


def target(request: Message, resource: str) -> str:
    """Give the id of the resource that an update request carries, or say what is missing."""
    return identifier(f"{resource}.id", getattr(request, resource).id)


def identifier(path: str, given: str) -> str:
    """Give an id in lower case, or say that it is none: for fields whose message is also used without one."""
    if not _UUID.fullmatch(given):
        problem = "must be a valid UUID"
        raise faults.RequestInvalid(f"{path}: {problem}", violations={path: problem}, fields=path)
    return given.lower()


def merge(stored: Resource, given: Resource, mask: FieldMask, updatable: Collection[str]) -> Resource:
    """Give the stored resource with the masked fields of the given one, validated."""
    paths = list(mask.paths)
    if paths == ["*"]:
        paths = list(updatable)
    elif not paths:
        paths = [field.name for field, _ in given.ListFields() if field.name in updatable]
    for path in paths:
        if path not in updatable:
            allowed = ", ".join(sorted(updatable))
            raise UpdateMaskInvalid(f"{path} cannot be updated; these can: {allowed}", path=path)
    merged: Any = type(stored)()
    merged.CopyFrom(stored)
    for path in paths:
        merged.ClearField(path)
        value = getattr(given, path)
        if given.DESCRIPTOR.fields_by_name[path].is_repeated:
            getattr(merged, path).MergeFrom(value)
        elif isinstance(value, Message):
            if given.HasField(path):
                getattr(merged, path).CopyFrom(value)
        elif not given.DESCRIPTOR.fields_by_name[path].has_presence or given.HasField(path):
            setattr(merged, path, value)
    validation.check(merged)
    return merged  # type: ignore[no-any-return]
