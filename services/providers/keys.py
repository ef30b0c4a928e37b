"""Keys that people and agents bring: the row, its wire form, its queries, its states and its faults.

What is sealed leaves this module only as a row, for `envelopes`; the wire form shows four characters.
"""

from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from sqlalchemy import Column, DateTime, Integer, LargeBinary, MetaData, Table, Text, Uuid, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from services.kit import calls, clock, outbox, updates
from services.kit.db import Constraints, Row, Statement, Transaction, param, params
from services.kit.faults import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted
from services.kit.paging import Page
from services.providers import owners, providers, quotas
from services.providers.envelopes import Envelope
from services.providers.owners import Owner
from triptych.providers.v1 import key_pb2, key_service_pb2 as pb

MOST_LIVE = 5

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
    Column("validate_time", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True)),
    Column("revoke_time", DateTime(timezone=True)),
    Column("last_use_time", DateTime(timezone=True)),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_sealed = (table.c.state == "active") | (table.c.state == "rotating")
_live = _sealed & (table.c.expire_time.is_(None) | (table.c.expire_time > func.now()))
_new_id = Statement(select(func.uuidv7().label("id")))
_count_live = Statement(select(func.count().label("live")).where(owners.owned(table), _live))
_insert = Statement(
    upsert(table)
    .values(
        **params(
            "id tenant_id owner_kind owner_id provider_id label last_four state destination_host"
            " encrypted_api_key encrypted_dek kek_version fingerprint validate_time"
        )
    )
    .on_conflict_do_nothing()
    .returning(*table.c)
)
_same = Statement(
    select(table.c.id)
    .where(
        owners.owned(table),
        table.c.provider_id == param("provider_id"),
        _sealed,
        (table.c.fingerprint == param("fingerprint")) | (table.c.label == param("label")),
    )
    .order_by(table.c.fingerprint == param("fingerprint"))
)
_get = Statement(select(table).where(table.c.id == param("id")))
_resolvable = Statement(
    select(table)
    .where(
        owners.owned(table),
        table.c.provider_id == param("provider_id"),
        table.c.destination_host == param("destination_host"),
        _live,
    )
    .order_by(table.c.state, table.c.id.desc())  # an active key before one that is being rotated out
    .limit(1)
)
_use = Statement(
    update(table)
    .where(
        table.c.id == param("key_id"),
        table.c.last_use_time.is_(None) | (table.c.last_use_time < func.date_trunc("minute", func.now())),
    )
    .values(last_use_time=func.date_trunc("minute", func.now()))
)
_revoke = Statement(
    update(table)
    .where(table.c.id == param("key_id"), table.c.state != "revoked")
    .values(
        state="revoked",
        encrypted_api_key=None,
        encrypted_dek=None,
        revoke_time=func.now(),
        revision=table.c.revision + 1,
        update_time=func.now(),
    )
    .returning(*table.c)
)


class KeyNotFound(NotFound):
    """No such key for the caller: missing, another's, revoked, expired, or for another host."""

    def __init__(self, **facts: object) -> None:
        super().__init__("there is no such key", violations=None, retry_after=None, **facts)


class KeyExists(AlreadyExists):
    """The owner has this key, or one with this label, for this provider."""


class KeyLimit(ResourceExhausted):
    """The owner has as many live keys as are allowed."""

    retry_after = None  # type: ignore[assignment]  # waiting does not help


class ProviderTakesNoKey(FailedPrecondition):
    """Work on the team's own machines needs none."""


class Draft(NamedTuple):
    """A key that is to be stored: for which provider, under which id."""

    provider: Row
    key_id: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class Sealed:
    """A key that was proven and sealed."""

    draft: Draft
    envelope: Envelope
    fingerprint: bytes


CONSTRAINTS: Constraints = {
    name: lambda: KeyExists("the owner has this key, or one with this label, for this provider")
    for name in ("user_providers_label", "user_providers_fingerprint")
}


async def draft(tx: Transaction, provider_id: str) -> Draft:
    """See whether a key may be stored at all, before anybody is asked about it."""
    provider = await providers.row(tx, provider_id)
    if provider["type"] == providers.LOCAL:
        raise ProviderTakesNoKey("a local provider needs no key", provider_id=provider_id)
    owner = owners.caller()
    await _check_limit(tx, owner)
    return Draft(provider, str((await tx.only(_new_id))["id"]), owner)


async def insert(tx: Transaction, request: pb.StoreKeyRequest, *, sealed: Sealed) -> pb.StoreKeyResponse:
    """Store a sealed key. The owner's quota row is locked meanwhile, so that two at once count each other."""
    provider, key_id, owner = sealed.draft
    await quotas.lock(tx, owner)
    await _check_limit(tx, owner)
    row = await tx.one(
        _insert,
        id=key_id,
        tenant_id=tx.tenant_id,
        **owner.columns,
        provider_id=provider["id"],
        label=request.label,
        last_four=request.api_key[-4:],
        state="active",
        destination_host=provider["destination_host"],
        encrypted_api_key=sealed.envelope.encrypted_api_key,
        encrypted_dek=sealed.envelope.encrypted_dek,
        kek_version=sealed.envelope.kek_version,
        fingerprint=sealed.fingerprint,
        validate_time=clock.now(),
    )
    if row is None:
        await _raise_exists(tx, request, sealed)
    key = _wire(row)
    await outbox.record(tx, f"key:{key.id}", key)
    return pb.StoreKeyResponse(key=key)


async def get(tx: Transaction, key_id: str) -> key_pb2.Key:
    """Give one key that the caller sees."""
    return _wire(await _seen(tx, key_id))


async def page(tx: Transaction, page: Page) -> pb.ListKeysResponse:
    """Give one page of the keys that the caller sees, newest first."""
    query = select(table).where(owners.seen(table)).order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListKeysResponse(keys=[_wire(row) for row in rows], next_page_token=token)


async def revoke(tx: Transaction, request: pb.RevokeKeyRequest) -> pb.RevokeKeyResponse:
    """Revoke a key and shred what it was sealed with, in one statement."""
    row = await _seen(tx, request.key_id)
    revoked = await tx.one(_revoke, key_id=row["id"])
    key = _wire(revoked or await _seen(tx, request.key_id))
    await outbox.record(tx, f"key:{key.id}", key)
    return pb.RevokeKeyResponse(key=key)


async def find(tx: Transaction, request: pb.ResolveKeyRequest) -> Row:
    """Give the row of the key that resolves for this owner, provider and host."""
    row = await tx.one(
        _resolvable,
        **owners.of(request.owner).columns,
        provider_id=request.provider_id,
        destination_host=request.destination_host.lower(),
    )
    if row is None:
        raise KeyNotFound(provider_id=request.provider_id)
    return row


async def record_use(tx: Transaction, row: Row) -> None:
    """Record that a key was opened, and by whom."""
    await tx.run(_use, key_id=row["id"])
    details = {
        "owner": str(owners.in_row(row)),
        "provider_id": str(row["provider_id"]),
        "destination_host": row["destination_host"],
        "service": calls.caller().service,
    }
    await outbox.record(tx, f"key:{row['id']}", details)


async def _check_limit(tx: Transaction, owner: Owner) -> None:
    if (await tx.only(_count_live, **owner.columns))["live"] >= MOST_LIVE:
        raise KeyLimit(f"an owner has at most {MOST_LIVE} live keys; revoke one", limit=MOST_LIVE)


async def _raise_exists(tx: Transaction, request: pb.StoreKeyRequest, sealed: Sealed) -> NoReturn:
    same = await tx.only(
        _same,
        **sealed.draft.owner.columns,
        provider_id=sealed.draft.provider["id"],
        fingerprint=sealed.fingerprint,
        label=request.label,
    )
    raise KeyExists(
        "the owner has this key, or one with this label, for this provider: revoke it or take another label",
        key_id=same["id"],
    )


async def _seen(tx: Transaction, key_id: str) -> Row:
    row = await tx.one(_get, id=key_id)
    if row is None or not (owners.sees_all() or owners.in_row(row) == owners.caller()):
        raise KeyNotFound(key_id=key_id)
    return row


def _state(row: Row) -> "key_pb2.KeyState.ValueType":
    """The end of a key's time is seen at once, whenever the row is brought up to date."""
    over = row["expire_time"] is not None and row["expire_time"] <= clock.now()
    state = "expired" if over and row["state"] != "revoked" else row["state"]
    return key_pb2.KeyState.Value(f"KEY_STATE_{state.upper()}")


def _wire(row: Row) -> key_pb2.Key:
    return key_pb2.Key(
        id=str(row["id"]),
        owner=owners.wire(owners.in_row(row)),
        provider_id=str(row["provider_id"]),
        label=row["label"],
        last_four=row["last_four"],
        state=_state(row),
        destination_host=row["destination_host"],
        kek_version=row["kek_version"],
        validate_time=row["validate_time"],
        expire_time=row["expire_time"],
        revoke_time=row["revoke_time"],
        last_use_time=row["last_use_time"],
        create_time=row["create_time"],
        etag=updates.etag(row["revision"]),
    )
