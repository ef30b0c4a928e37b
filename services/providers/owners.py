"""Owners: whose a key, a quota or a cost is. A person, an agent, or a service that works for a tenant by itself.

Who may see what of whom is decided here: everybody sees their own, an admin what the tenant has.
"""

from typing import NamedTuple

from sqlalchemy import ColumnElement, FromClause
from sqlalchemy.sql import literal

from services.kit import calls, faults
from services.kit.db import Row, param
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role

KINDS = {
    "user": PrincipalKind.PRINCIPAL_KIND_USER,
    "agent": PrincipalKind.PRINCIPAL_KIND_AGENT,
    "service": PrincipalKind.PRINCIPAL_KIND_SERVICE,
}
_NAMES = {number: name for name, number in KINDS.items()}


class Owner(NamedTuple):
    """Kind and id."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @property
    def columns(self) -> dict[str, str]:
        """The owner as values of the columns that all tables have for it."""
        return {"owner_kind": self.kind, "owner_id": self.id}


PLATFORM = Owner("service", "platform")


def tenant(tenant_id: str) -> Owner:
    """Give the tenant as a whole, which has counters and alerts like an owner."""
    return Owner("tenant", tenant_id)


def platform() -> Owner:
    """Give the owner of keys that an admin stores for the whole tenant; nobody else may."""
    if not sees_all():
        raise faults.CallerNotPermitted("only an admin stores a key of the platform", permission="keys.store")
    return PLATFORM


def caller() -> Owner:
    """Give the caller of the RPC that is being served, as an owner."""
    known = calls.caller()
    return Owner(known.kind, known.id)


def of(principal: Principal) -> Owner:
    """Read an owner from a request; ids of people and agents are UUIDs, written in lower case."""
    kind = _NAMES[principal.kind]
    return Owner(kind, principal.id if kind == "service" else principal.id.lower())


def in_row(row: Row) -> Owner:
    """Read an owner from a row."""
    return Owner(row["owner_kind"], row["owner_id"])


def wire(owner: Owner) -> Principal:
    """Write an owner."""
    return Principal(kind=KINDS[owner.kind], id=owner.id)


def sees_all() -> bool:
    """Say whether the caller sees what others of the tenant own."""
    known = calls.caller()
    return known.kind == "user" and known.role >= Role.ROLE_ADMIN


def owned(table: FromClause) -> ColumnElement[bool]:
    """The condition that a row belongs to the owner given as parameters `owner_kind` and `owner_id`."""
    return (table.c.owner_kind == param("owner_kind")) & (table.c.owner_id == param("owner_id"))


def seen(table: FromClause) -> ColumnElement[bool]:
    """The condition that the caller sees a row, for lists."""
    mine = caller()
    if sees_all():
        return literal(value=True)
    return (table.c.owner_kind == mine.kind) & (table.c.owner_id == mine.id)
