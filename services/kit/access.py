"""Who may call what. The rule of each method comes from its proto (`triptych.common.v1.access`) and nowhere else."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.kit import faults
from triptych.common.v1 import options_pb2
from triptych.common.v1.role_pb2 import Role

SYSTEM_TENANT = "00000000-0000-0000-0000-000000000000"
"""Tenant of what belongs to no tenant, such as the rotation of signing keys."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a person or an agent by token, a service by certificate, or a service on behalf of one of them."""

    kind: str = "public"
    """public, user, agent or service: who is responsible."""
    id: str = ""
    """Id of the person or agent; name of the service."""
    tenant_id: str = ""
    role: "Role.ValueType" = Role.ROLE_UNSPECIFIED
    scopes: frozenset[str] = field(default_factory=frozenset)
    session_id: str = ""
    """Session of the person, or credential of the agent, that the token was given for."""
    version: int = 0
    """`token_version` of the person or agent when the token was made."""
    service: str = ""
    """Service at the other end of the connection; empty when the connection names none."""

    def through(self, service: str) -> "Caller":
        """Give the same caller at the other end of a service's connection."""
        return Caller(
            self.kind, self.id, self.tenant_id, self.role, self.scopes, self.session_id, self.version, service
        )


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC and its rule."""

    path: str
    """/package.Service/Method"""
    descriptor: MethodDescriptor
    audience: frozenset[str]
    services: frozenset[str]
    permission: str
    role: int
    audit: str
    """Action of the event that a success records; empty when it records none."""
    deadline: float
    """Seconds."""
    streams: bool = False
    """Requests or answers are a stream."""

    @property
    def response(self) -> type[Message]:
        """Message class of the answer."""
        return GetMessageClass(self.descriptor.output_type)


class RuleMissing(Exception):
    """A method has no usable rule; the server must not start."""


def methods(services: Iterable[str]) -> dict[str, Method]:
    """Read the rules of all methods of these services (full names); a method without one stops the start."""
    pool = descriptor_pool.Default()
    found = [_methods(pool.FindServiceByName(name)) for name in services]
    return {method.path: method for group in found for method in group}


def _methods(service: ServiceDescriptor) -> list[Method]:
    return [_method(service, descriptor) for descriptor in service.methods]


def _method(service: ServiceDescriptor, descriptor: MethodDescriptor) -> Method:
    path = f"/{service.full_name}/{descriptor.name}"
    options = descriptor.GetOptions()
    if not options.HasExtension(options_pb2.access):
        raise RuleMissing(f"{path} has no (triptych.common.v1.access) option")
    rule = options.Extensions[options_pb2.access]
    if not rule.audience or not rule.audit or not rule.HasField("deadline"):
        raise RuleMissing(f"{path}: audience, audit and deadline must be set")
    return Method(
        path=path,
        descriptor=descriptor,
        audience=frozenset(rule.audience),
        services=frozenset(name.removeprefix("service:") for name in rule.audience if name.startswith("service:")),
        permission=rule.permission,
        role=rule.role,
        audit="" if rule.audit.startswith("none: ") else rule.audit,
        deadline=rule.deadline.ToTimedelta().total_seconds(),
        streams=descriptor.client_streaming or descriptor.server_streaming,
    )


def check(method: Method, caller: Caller) -> None:
    """Let the caller through, or raise. What is not allowed is refused."""
    if "public" in method.audience or caller.service in method.services:
        return
    if caller.kind == "public":
        raise faults.TokenInvalid
    if caller.kind == "user" and "user" in method.audience and caller.role >= method.role:
        return
    if caller.kind == "agent" and "agent" in method.audience and method.permission in caller.scopes:
        return
    raise faults.CallerNotPermitted(
        f"{caller.kind} may not call this method; it needs the permission {method.permission}",
        permission=method.permission,
    )
