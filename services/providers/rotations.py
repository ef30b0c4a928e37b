"""Rotation of a key: a new row takes the place of the old one, which goes on to resolve for a day.

One that its provider refuses has no such day, and revoking ends any.
"""

from datetime import timedelta

from sqlalchemy import case, func, null, update

from services.kit import clock, outbox, updates
from services.kit.changes import Change
from services.kit.db import Row, Transaction, param
from services.providers import deposits, keys, owners, providers
from services.providers.deposits import Draft, Sealed
from services.providers.keys import KeyNotCurrent, KeyNotFound, table
from triptych.providers.v1 import key_service_pb2 as pb

GRACE = timedelta(hours=24)
CURRENT = ("active", "invalid")
_over = table.c.state == "invalid"
_replace = Change(
    update(table)
    .where(table.c.id == param("key_id"))
    .values(
        state=case((_over, "expired"), else_="rotating"),
        state_reason=param("reason"),
        encrypted_api_key=case((_over, null()), else_=table.c.encrypted_api_key),
        encrypted_dek=case((_over, null()), else_=table.c.encrypted_dek),
        expire_time=case((_over, func.now()), else_=func.least(table.c.expire_time, func.now() + GRACE)),
        revision=table.c.revision + 1,
        update_time=func.now(),
    )
    .returning(*table.c),
    kind="key",
    secret=keys.SECRET,
)


async def draft(tx: Transaction, request: pb.RotateKeyRequest) -> Draft:
    """See whether the caller's key may be replaced, before anybody is asked about the new value."""
    row = _checked(await keys.seen(tx, request.key_id), request.etag)
    provider = await providers.row(tx, str(row["provider_id"]))
    deposits.check_takes_keys(provider)
    return Draft(provider, await deposits.new_id(tx), owners.in_row(row), row["label"], row["expire_time"], row)


async def replace(tx: Transaction, request: pb.RotateKeyRequest, *, sealed: Sealed) -> pb.RotateKeyResponse:
    """Put the new key in the place of the old one; of two at once one finds that it came too late."""
    row = _checked(await keys.hold(tx, request.key_id), request.etag)
    reason = f"replaced by key {sealed.draft.key_id}"
    old = await _replace.only(tx, {"reason": reason}, key_id=row["id"], reason=reason)
    new = await deposits.add(tx, sealed)
    answer = pb.RotateKeyResponse(key=keys.wire(new), previous=keys.wire(old))
    await outbox.record(tx, f"key:{answer.key.id}", answer)
    return answer


def _checked(row: Row, etag: str) -> Row:
    """Another's key cannot be replaced, not even by an admin; one of the platform can by any admin, and stays its."""
    owner = owners.in_row(row)
    if owner != owners.caller() and not (owner == owners.PLATFORM and owners.sees_all()):
        raise KeyNotFound(key_id=row["id"])
    updates.check_etag(etag, row["revision"])
    over = row["expire_time"] is not None and row["expire_time"] <= clock.now()
    if row["state"] not in CURRENT or over:
        raise KeyNotCurrent(row)
    return row
