"""People of a tenant, put straight into the database: for tests that need many, and no passwords."""

import uuid
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import grpc

from services.kit import faults
from tests.auth.people import People
from tests.patience import eventually
from tests.suite import Person
from triptych.common.v1.role_pb2 import Role

Stub = TypeVar("Stub")
Answer = TypeVar("Answer")
Given = ParamSpec("Given")


def patient(call: Callable[Given, Awaitable[Answer]]) -> Callable[Given, Awaitable[Answer]]:
    """Call again while the server is too busy to begin, as clients do: many calls at once meet slow machines."""

    @wraps(call)
    async def calling(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        async def attempt() -> tuple[Answer] | None:
            try:
                return (await call(*args, **kwargs),)
            except faults.ResourceExhausted as fault:
                if fault.reason != faults.ServerBusy.reason:
                    raise
            return None

        return (await eventually(attempt))[0]

    return calling


async def settle(
    people: People, tenant_id: str, role: "Role.ValueType" = Role.ROLE_USER, *, name: str = "Settler"
) -> Person:
    """Give somebody new in a tenant."""
    user_id = str(uuid.uuid4())
    async with people.database() as database:
        await database.execute(
            "INSERT INTO users (id, email, email_key, display_name, verified, default_tenant_id)"
            " VALUES ($1, $2, $2, $3, true, $4)",
            user_id,
            people.address(),
            name,
            tenant_id,
        )
        await enter(people, user_id, tenant_id, role)
    return Person(people.suite, user_id, tenant_id, role)


async def found(people: People) -> str:
    """Give a new tenant with nobody in it."""
    tenant_id = str(uuid.uuid4())
    async with people.database() as database:
        await database.execute(
            "INSERT INTO tenants (id, slug, display_name) VALUES ($1, $2, 'Founded')", tenant_id, f"t-{tenant_id[:13]}"
        )
    return tenant_id


async def enter(people: People, user_id: str, tenant_id: str, role: "Role.ValueType") -> Person:
    """Make somebody a member of another tenant."""
    async with people.database() as database:
        await database.execute(
            "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, $3)",
            tenant_id,
            user_id,
            Role.Name(role).removeprefix("ROLE_").lower(),
        )
    return Person(people.suite, user_id, tenant_id, role)


def agent(people: People, tenant_id: str, *scopes: str) -> Callable[[Callable[[grpc.aio.Channel], Stub]], Stub]:
    """Give what makes stubs that call as an agent with these scopes."""
    claims = {"sub": str(uuid.uuid4()), "tid": tenant_id, "kind": "agent", "role": 0, "scope": " ".join(scopes)}
    metadata = (("authorization", f"Bearer {people.suite.issuer.token(claims)}"),)
    return lambda kind: kind(people.suite.channel(kind, metadata))
