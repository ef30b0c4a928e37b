"""Storing a key: what must be so before anybody is asked about it, and the row that holds it sealed."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, NoReturn

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from services.kit import clock, outbox
from services.kit.db import Constraints, Row, Statement, Transaction, param, params
from services.kit.faults import AlreadyExists, FailedPrecondition, ResourceExhausted
from services.providers import keys, owners, providers, quotas
from services.providers.envelopes import Envelope
from services.providers.keys import table
from services.providers.owners import Owner
from triptych.providers.v1 import key_service_pb2 as pb

MOST_LIVE = 5
_counted = ((table.c.state == "active") | (table.c.state == "invalid")) & (
    table.c.expire_time.is_(None) | (table.c.expire_time > func.now())
)
_new_id = Statement(select(func.uuidv7().label("id")))
_count_live = Statement(select(func.count().label("live")).where(owners.owned(table), _counted))
_insert = Statement(
    upsert(table)
    .values(
        **params(
            "id tenant_id owner_kind owner_id provider_id label last_four state destination_host"
            " encrypted_api_key encrypted_dek kek_version fingerprint prefix replaces_key_id expire_time validate_time"
            " validate_due"
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
        keys.unended,
        (table.c.fingerprint == param("fingerprint")) | (table.c.label == param("label")),
    )
    .order_by(table.c.fingerprint == param("fingerprint"))
)


class KeyExists(AlreadyExists):
    """The owner has this key, or one with this label, for this provider."""


class KeyLimit(ResourceExhausted):
    """The owner has as many live keys as are allowed."""

    retry_after = None  # type: ignore[assignment]  # waiting does not help


class ProviderTakesNoKey(FailedPrecondition):
    """Work on the team's own machines needs none."""


class Draft(NamedTuple):
    """A key that is to be stored: for which provider, under which id, as what."""

    provider: Row
    key_id: str
    owner: Owner
    label: str
    expire_time: datetime | None
    replaces: Row | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A key that was proven and sealed, and what is shown of it."""

    draft: Draft
    envelope: Envelope
    fingerprint: bytes
    prefix: str
    last_four: str


CONSTRAINTS: Constraints = {
    name: lambda: KeyExists("the owner has this key, or one with this label, for this provider")
    for name in ("user_providers_label", "user_providers_fingerprint")
}


async def draft(tx: Transaction, request: pb.StoreKeyRequest) -> Draft:
    """See whether a key may be stored at all, before anybody is asked about it."""
    provider = await providers.row(tx, request.provider_id)
    check_takes_keys(provider)
    owner = owners.platform() if request.platform else owners.caller()
    await _check_limit(tx, owner)
    end = request.expire_time.ToDatetime(UTC) if request.HasField("expire_time") else None
    return Draft(provider, await new_id(tx), owner, request.label, end)


async def insert(tx: Transaction, request: pb.StoreKeyRequest, *, sealed: Sealed) -> pb.StoreKeyResponse:  # noqa: ARG001 - as requests.once calls it
    """Store a sealed key. The owner's quota row is locked meanwhile, so that two at once count each other."""
    await quotas.lock(tx, sealed.draft.owner)
    await _check_limit(tx, sealed.draft.owner)
    key = keys.wire(await add(tx, sealed))
    await outbox.record(tx, f"key:{key.id}", key)
    return pb.StoreKeyResponse(key=key)


async def add(tx: Transaction, sealed: Sealed) -> Row:
    """Store the row of a sealed key; the provider must still be what it was proven at."""
    draft = sealed.draft
    await providers.check_same(tx, draft.provider)
    now = clock.now()
    row = await tx.one(
        _insert,
        id=draft.key_id,
        tenant_id=tx.tenant_id,
        **draft.owner.columns,
        provider_id=draft.provider["id"],
        label=draft.label,
        last_four=sealed.last_four,
        state="active",
        destination_host=draft.provider["destination_host"],
        encrypted_api_key=sealed.envelope.encrypted_api_key,
        encrypted_dek=sealed.envelope.encrypted_dek,
        kek_version=sealed.envelope.kek_version,
        fingerprint=sealed.fingerprint,
        prefix=sealed.prefix,
        replaces_key_id=draft.replaces["id"] if draft.replaces is not None else None,
        expire_time=draft.expire_time,
        validate_time=now,
        validate_due=keys.tomorrow(now),
    )
    return row if row is not None else await _raise_exists(tx, sealed)


async def new_id(tx: Transaction) -> str:
    """Give the id of a key that is to be stored: what is sealed is bound to it."""
    return str((await tx.only(_new_id))["id"])


def check_takes_keys(provider: Row) -> None:
    """Raise unless keys for this provider may be stored."""
    if provider["type"] == providers.LOCAL:
        raise ProviderTakesNoKey("a local provider needs no key", provider_id=provider["id"])
    providers.check_usable(provider, str(provider["id"]))


async def _check_limit(tx: Transaction, owner: Owner) -> None:
    if (await tx.only(_count_live, **owner.columns))["live"] >= MOST_LIVE:
        raise KeyLimit(f"an owner has at most {MOST_LIVE} live keys; revoke one", limit=MOST_LIVE)


async def _raise_exists(tx: Transaction, sealed: Sealed) -> NoReturn:
    same = await tx.one(
        _same,
        **sealed.draft.owner.columns,
        provider_id=sealed.draft.provider["id"],
        fingerprint=sealed.fingerprint,
        label=sealed.draft.label,
    )
    raise KeyExists(
        "the owner has this key, or one with this label, for this provider: revoke it or take another label",
        key_id=same["id"] if same is not None else "",
    )
