"""What passes without the engine of rules passes the engine too: every message of the contracts, with many values."""

import random
import uuid
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from protovalidate import Validator

from services.kit import shapes
from tests.contracts import protos
from triptych.projects.v1 import project_service_pb2 as pb

ID = str(uuid.uuid4())
TEXTS = (
    "",
    "x",
    "X" * 120,
    "x" * 121,
    "é" * 200,
    "é" * 5000,
    ID,
    ID.upper(),
    f"{ID}\n",
    f"{{{ID}}}",
    "\u0661" * 36,
    "a\x00",
)
NUMBERS = (0, 1, -1, 7, 200, 201, 2**31 - 1, -(2**31))
ROUNDS = 60
DICE = random.Random()  # noqa: S311 - the same values each time are wanted
_validator = Validator()
plannable = [found for found in protos.messages() if shapes._plan(found) is not None]


def value(field: FieldDescriptor) -> Any:
    kinds = {
        FieldDescriptor.CPPTYPE_STRING: TEXTS,
        FieldDescriptor.CPPTYPE_BOOL: (False, True),
        FieldDescriptor.CPPTYPE_DOUBLE: (0.0, -1.0, 1.5, float("nan"), float("inf")),
        FieldDescriptor.CPPTYPE_FLOAT: (0.0, -1.0),
        FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 99),
    }
    if field.type == FieldDescriptor.TYPE_BYTES:
        return DICE.choice((b"", b"x", b"x" * 5000))
    chosen: Any = DICE.choice(kinds.get(field.cpp_type, NUMBERS))
    return abs(chosen) if field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64) else chosen


def filled(descriptor: Descriptor) -> Message:
    """A message with values in some of its fields, good and bad."""
    made = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if DICE.random() < 0.3:
            continue
        if field.message_type is not None:
            if not field.is_repeated and DICE.random() < 0.2:
                getattr(made, field.name).SetInParent()
        elif field.is_repeated:
            getattr(made, field.name).extend(value(field) for _ in range(DICE.choice((0, 0, 1, 3))))
        else:
            setattr(made, field.name, value(field))
    return made


@pytest.mark.parametrize("descriptor", plannable, ids=lambda found: found.full_name)
def test_what_passes_here_passes_protovalidate(descriptor: Descriptor) -> None:
    DICE.seed(descriptor.full_name)
    for message in [GetMessageClass(descriptor)(), *(filled(descriptor) for _ in range(ROUNDS))]:
        if shapes.plain(message):
            assert _validator.collect_violations(message) == []


def test_requests_of_an_id_are_among_them() -> None:
    assert shapes.plain(pb.GetProjectRequest(project_id=ID))
    assert not shapes.plain(pb.GetProjectRequest(project_id=f"{ID}\n"))
    assert shapes.plain(pb.ListProjectsRequest())
    assert not shapes.plain(pb.ListProjectsRequest(page_size=-1))
    assert not shapes.plain(pb.CreateProjectRequest())
    assert len(plannable) > 100
