"""Keys that people and agents bring: the row, its wire form, its queries, its states and its faults.

What is sealed leaves this module only as a row, for `envelopes`; the wire form shows four characters.
"""

import random
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    select,
    update,
)

from services.kit import clock, outbox, updates
from services.kit.changes import Change
from services.kit.db import Row, Statement, Transaction, param
from services.kit.faults import FailedPrecondition, NotFound
from services.kit.paging import Page
from services.providers import owners
from services.providers.words import KEY_STATES
from triptych.providers.v1 import key_pb2, key_service_pb2 as pb

DAY = timedelta(days=1)
SPREAD = 1 / 12
"""Of a day; validations of keys that were stored together do not stay together."""

table = Table(
    "user_providers",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("provider_id", Uuid, nullable=False),
    Column("label", Text, nullable=False),
    Column("last_four", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("destination_host", Text, nullable=False),
    Column("encrypted_api_key", LargeBinary),
    Column("encrypted_dek", Text),
    Column("kek_version", Integer, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("replaces_key_id", Uuid),
    Column("state_reason", Text, nullable=False, server_default=""),
    Column("use_count", BigInteger, nullable=False, server_default="0"),
    Column("validate_time", DateTime(timezone=True), nullable=False),
    Column("validate_due", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True)),
    Column("revoke_time", DateTime(timezone=True)),
    Column("last_use_time", DateTime(timezone=True)),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
unended = (table.c.state == "active") | (table.c.state == "rotating") | (table.c.state == "invalid")
"""Their material is there: they resolve, or may do so again."""
_get = Statement(select(table).where(table.c.id == param("id")))
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
SECRET = ("encrypted_api_key", "encrypted_dek", "fingerprint")
"""Columns that the audit log never gets."""
_invalid = Statement(
    select(table)
    .where(
        table.c.owner_kind == param("owner_kind"),
        table.c.owner_id == param("owner_id"),
        table.c.provider_id == param("provider_id"),
        table.c.state == "invalid",
        table.c.expire_time.is_(None) | (table.c.expire_time > func.now()),
    )
    .order_by(table.c.id.desc())
    .limit(1)
)
_revoke = Change(
    update(table)
    .where(table.c.id == param("key_id"), table.c.state != "revoked")
    .values(
        state="revoked",
        encrypted_api_key=None,
        encrypted_dek=None,
        revoke_time=func.now(),
        state_reason=param("reason"),
        revision=table.c.revision + 1,
        update_time=func.now(),
    )
    .returning(*table.c),
    kind="key",
    secret=SECRET,
)


class KeyNotFound(NotFound):
    """No such key for the caller: missing, another's, revoked, expired, or for another host."""

    def __init__(self, **facts: object) -> None:
        text = "there is no such key; to store one: StoreKey (`triptych keys store`)"
        super().__init__(text, violations=None, retry_after=None, **facts)


class KeyNotCurrent(FailedPrecondition):
    """It was replaced, revoked or has expired."""

    def __init__(self, row: Row) -> None:
        state = state_name(row)
        super().__init__(f"the key is {state}; use the one that is active, or store another", state=state)


async def get(tx: Transaction, key_id: str) -> key_pb2.Key:
    """Give one key that the caller sees."""
    return wire(await seen(tx, key_id))


async def page(tx: Transaction, page: Page) -> pb.ListKeysResponse:
    """Give one page of the keys that the caller sees, newest first."""
    query = select(table).where(owners.seen(table)).order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListKeysResponse(keys=[wire(row) for row in rows], next_page_token=token)


async def revoke(tx: Transaction, request: pb.RevokeKeyRequest) -> pb.RevokeKeyResponse:
    """Revoke a key and shred what it was sealed with, in one statement."""
    row = await seen(tx, request.key_id)
    mine = owners.in_row(row) == owners.caller()
    reason = "revoked by its owner" if mine else "revoked by an admin"
    revoked = await _revoke.one(tx, {"reason": reason}, key_id=row["id"], reason=reason)
    key = wire(revoked or await seen(tx, request.key_id))
    if revoked is None:  # it was before
        await outbox.record(tx, f"key:{key.id}", key)
    return pb.RevokeKeyResponse(key=key)


async def seen(tx: Transaction, key_id: str) -> Row:
    """Give the row of a key that the caller sees."""
    row = await tx.one(_get, id=key_id)
    if row is None or not (owners.sees_all() or owners.in_row(row) == owners.caller()):
        raise KeyNotFound(key_id=key_id)
    return row


async def find_invalid(tx: Transaction, owner: owners.Owner, provider_id: str) -> Row | None:
    """Give the newest key of an owner that this provider refused."""
    return await tx.one(_invalid, **owner.columns, provider_id=provider_id)


async def hold(tx: Transaction, key_id: str) -> Row:
    """Give the row of a key, whosever it is, locked until the transaction ends."""
    row = await tx.one(_lock, id=key_id)
    if row is None:
        raise KeyNotFound(key_id=key_id)
    return row


def tomorrow(now: datetime) -> datetime:
    """Give the moment of the next validation: a day later, give or take two hours, so that they spread."""
    return now + DAY * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - jitter, not a secret


def state_name(row: Row) -> str:
    """Name the state; the end of a key's time is seen at once, whenever the row is brought up to date."""
    over = row["expire_time"] is not None and row["expire_time"] <= clock.now()
    return "expired" if over and row["state"] != "revoked" else str(row["state"])


def wire(row: Row) -> key_pb2.Key:
    """Write a key: never what is sealed."""
    return key_pb2.Key(
        id=str(row["id"]),
        owner=owners.wire(owners.in_row(row)),
        provider_id=str(row["provider_id"]),
        label=row["label"],
        prefix=row["prefix"],
        last_four=row["last_four"],
        state=KEY_STATES.number(state_name(row)),
        state_reason=row["state_reason"],
        destination_host=row["destination_host"],
        kek_version=row["kek_version"],
        use_count=row["use_count"],
        replaces_key_id=str(row["replaces_key_id"] or ""),
        validate_time=row["validate_time"],
        expire_time=_end(row),
        revoke_time=row["revoke_time"],
        last_use_time=_last_use(row),
        create_time=row["create_time"],
        etag=updates.etag(row["revision"]),
    )


def _end(row: Row) -> Any:
    """Give the end of its time; one that was revoked before has ended then."""
    ends, revoked = row["expire_time"], row["revoke_time"]
    return min(ends, revoked) if ends is not None and revoked is not None else ends


def _last_use(row: Row) -> Any:
    """Give the last use, which is kept to the minute: the first minute of a key began before it did."""
    used = row["last_use_time"]
    return max(used, row["create_time"]) if used is not None else None
