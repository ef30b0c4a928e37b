"""The contract as data: all services, methods and messages of Triptych."""

import importlib
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"


def files() -> list[FileDescriptor]:
    """Every proto file of ours, loaded."""
    names = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "triptych").rglob("*.proto"))
    for name in names:
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    return [descriptor_pool.Default().FindFileByName(name) for name in names]


def services() -> list[str]:
    """Full name of each gRPC service."""
    return [service.full_name for file in files() for service in file.services_by_name.values()]


def methods() -> list[MethodDescriptor]:
    """Every RPC."""
    return [method for file in files() for service in file.services_by_name.values() for method in service.methods]


def messages() -> list[Descriptor]:
    """Every message."""
    return [message for file in files() for message in file.message_types_by_name.values()]


def fields() -> Iterator[FieldDescriptor]:
    """Every field of every message."""
    for message in messages():
        yield from message.fields
