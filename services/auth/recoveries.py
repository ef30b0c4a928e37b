"""Recovery codes: ten at a time, 120 random bits each, stored as SHA-256, good once. Shown once and never again."""

import base64
import hashlib
import secrets

from sqlalchemy import Column, DateTime, LargeBinary, MetaData, Table, Uuid, delete, func, insert, select, update

from services.auth import events, factors, notices, reauthentications, users
from services.auth.factors import FactorMissing
from services.auth.letters import Letters
from services.auth.sources import Source
from services.kit import calls, outbox
from services.kit.db import Statement, Transaction, param, params
from triptych.auth.v1 import factor_service_pb2 as pb

COUNT = 10
BYTES = 15

table = Table(
    "recovery_codes",
    MetaData(),
    Column("user_id", Uuid, primary_key=True),
    Column("code_hash", LargeBinary, primary_key=True),
    Column("use_time", DateTime(timezone=True)),
    implicit_returning=False,
)
_mine = table.c.user_id == param("person_id")
_unused = _mine & table.c.use_time.is_(None)
_insert = Statement(insert(table).values(**params("user_id code_hash")))
_delete = Statement(delete(table).where(_mine))
_left = Statement(select(func.count().label("left")).select_from(table).where(_unused))
_use = Statement(
    update(table)
    .where(_unused, table.c.code_hash == param("digest"))
    .values(use_time=func.now())
    .returning(table.c.user_id)
)


async def replace(tx: Transaction, user_id: object) -> list[str]:
    """Give ten new codes; all older ones end."""
    await clear(tx, user_id)
    codes = [_text(secrets.token_bytes(BYTES)) for _ in range(COUNT)]
    await tx.many(_insert, [{"user_id": user_id, "code_hash": _digest(code)} for code in codes])
    return codes


async def clear(tx: Transaction, user_id: object) -> None:
    """End all codes of a person."""
    await tx.run(_delete, person_id=user_id)


async def left(tx: Transaction, user_id: object) -> int:
    """Say how many codes were not used yet."""
    return int((await tx.only(_left, person_id=user_id))["left"])


async def spend(tx: Transaction, user_id: object, given: str) -> bool:
    """Use a code up; False when it is none of the person's, or was used."""
    return await tx.one(_use, person_id=user_id, digest=_digest(given)) is not None


async def regenerate(tx: Transaction, source: Source, letters: Letters) -> pb.RegenerateRecoveryCodesResponse:
    """Give the caller ten new codes."""
    caller = calls.caller().id
    await users.lock(tx, caller)
    await reauthentications.require(tx)
    if not await factors.kinds(tx, caller):
        raise FactorMissing("there is no factor that recovery codes could stand in for; enroll TOTP or a passkey first")
    codes = await replace(tx, caller)
    user = f"user:{caller}"
    await events.write(tx, "auth.factor.regenerate_codes", user, source=source, user_id=caller)
    await outbox.record(tx, user, {"codes": COUNT})
    await notices.post(tx, letters, notices.CODES_REPLACED)
    return pb.RegenerateRecoveryCodesResponse(recovery_codes=codes)


async def settle(tx: Transaction, user_id: object) -> None:
    """End the codes of somebody who has no other factor any more."""
    if not await factors.kinds(tx, user_id):
        await clear(tx, user_id)


def _text(data: bytes) -> str:
    """24 characters of base32 in groups of four."""
    plain = base64.b32encode(data).decode()
    return "-".join(plain[place : place + 4] for place in range(0, len(plain), 4))


def _digest(code: str) -> bytes:
    return hashlib.sha256(code.upper().replace("-", "").replace(" ", "").encode()).digest()
