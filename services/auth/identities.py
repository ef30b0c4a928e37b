"""External identities: who a member is on Discord, on Telegram or by wallet. The tenant vouches; nobody proves it here.

One identity is one member's in a tenant. Who leaves the tenant leaves theirs.
"""

import re
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    MetaData,
    ScalarSelect,
    Table,
    Text,
    Uuid,
    delete,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from services.auth import memberships
from services.kit import faults
from services.kit.db import Statement, Transaction, param, params
from triptych.auth.v1.member_pb2 import ExternalIdentity, IdentityProvider

MOST = 10
"""Identities of one member."""
_NUMBER = r"[1-9][0-9]{0,19}"
_FORMS = {
    IdentityProvider.IDENTITY_PROVIDER_DISCORD: ("discord", re.compile(_NUMBER), "a numeric id of 20 digits at most"),
    IdentityProvider.IDENTITY_PROVIDER_TELEGRAM: ("telegram", re.compile(_NUMBER), "a numeric id of 20 digits at most"),
    IdentityProvider.IDENTITY_PROVIDER_WALLET: (
        "wallet",
        re.compile(r"0x[0-9a-f]{40}"),
        "0x and 40 hexadecimal digits",
    ),
}
_WIRE = {name: provider for provider, (name, _, _) in _FORMS.items()}

table = Table(
    "user_identities",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_this = (table.c.provider == param("provider")) & (table.c.subject == param("subject"))
_insert = Statement(
    insert(table)
    .values(**params("tenant_id provider subject user_id"))
    .on_conflict_do_nothing(index_elements=["tenant_id", "provider", "subject"])
    .returning(table.c.user_id)
)
_holder = Statement(select(table.c.user_id).where(_this))
_count = Statement(select(func.count().label("held")).where(table.c.user_id == param("user_id")))
_delete = Statement(delete(table).where(_this, table.c.user_id == param("user_id")))
_delete_all = Statement(delete(table).where(table.c.user_id == param("user_id")))


class IdentityTaken(faults.AlreadyExists):
    """Another member has this identity."""

    def __init__(self) -> None:
        super().__init__("another member has this identity; unlink it there first")


class IdentityLimit(faults.FailedPrecondition):
    """The member has as many identities as one may."""

    def __init__(self) -> None:
        super().__init__(f"a member has {MOST} identities at most; unlink one first", limit=MOST)


def of_member() -> ScalarSelect[Any]:
    """All identities of the membership that a query is about, as JSON."""
    fields = [value for column in (table.c.provider, table.c.subject, table.c.create_time) for value in _pair(column)]
    return (
        select(func.jsonb_agg(aggregate_order_by(func.jsonb_build_object(*fields), table.c.provider, table.c.subject)))
        .where(
            table.c.tenant_id == memberships.table.c.tenant_id,
            table.c.user_id == memberships.table.c.user_id,
        )
        .correlate(memberships.table)
        .scalar_subquery()
    )


def read(given: ExternalIdentity) -> tuple[str, str]:
    """Give provider and subject as they are stored, or say what is wrong with the subject."""
    name, form, words = _FORMS[given.provider]
    subject = given.subject.lower()
    if not form.fullmatch(subject):
        problem = f"on {name} it must be {words}"
        raise faults.RequestInvalid(
            f"identity.subject: {problem}", violations={"identity.subject": problem}, fields="identity.subject"
        )
    return name, subject


async def holder(tx: Transaction, given: ExternalIdentity) -> str | None:
    """Give the id of the member who has this identity."""
    provider, subject = read(given)
    row = await tx.one(_holder, provider=provider, subject=subject)
    return str(row["user_id"]) if row is not None else None


async def link(tx: Transaction, user_id: object, given: ExternalIdentity) -> None:
    """Give an identity to a member whose row is locked; one that they have stays as it is."""
    provider, subject = read(given)
    row = await tx.one(_insert, tenant_id=tx.tenant_id, provider=provider, subject=subject, user_id=user_id)
    if row is None and await holder(tx, given) != str(user_id):
        raise IdentityTaken
    if (await tx.only(_count, user_id=user_id))["held"] > MOST:
        raise IdentityLimit


async def unlink(tx: Transaction, user_id: object, given: ExternalIdentity) -> None:
    """Take an identity from a member; one that they have not stays as it is."""
    provider, subject = read(given)
    await tx.run(_delete, provider=provider, subject=subject, user_id=user_id)


async def drop(tx: Transaction, user_id: object) -> None:
    """Take all identities from somebody who leaves."""
    await tx.run(_delete_all, user_id=user_id)


def wire(items: list[dict[str, str]] | None) -> list[ExternalIdentity]:
    """Give identities as `of_member` read them."""
    return [
        ExternalIdentity(
            provider=_WIRE[item["provider"]],
            subject=item["subject"],
            create_time=_moment(item["create_time"]),
        )
        for item in items or []
    ]


def _moment(text: str) -> Any:
    return datetime.fromisoformat(text)


def _pair(column: Column[Any]) -> tuple[ColumnElement[str], Column[Any]]:
    return literal_column(f"'{column.name}'"), column
