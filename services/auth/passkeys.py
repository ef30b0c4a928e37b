"""Passkeys: the public halves of somebody's key pairs, their wire form, their registration and their end."""

import uuid
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    and_,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from webauthn.registration.verify_registration_response import VerifiedRegistration

from services.auth import (
    ceremonies,
    challenges,
    events,
    factors,
    notices,
    profiles,
    reauthentications,
    recoveries,
    sessions,
    tenants,
    users,
)
from services.auth.ceremonies import Given, PasskeyInvalid, RelyingParty
from services.auth.factors import FactorExists
from services.auth.letters import Letters
from services.auth.sources import Source
from services.kit import calls, faults, outbox, requests
from services.kit.db import Row, Statement, Transaction, param, params
from triptych.auth.v1 import factor_pb2, factor_service_pb2 as pb

MOST = 10
TRANSPORTS = ("ble", "hybrid", "internal", "nfc", "smart-card", "usb")

table = Table(
    "passkeys",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("user_id", Uuid, nullable=False),
    Column("credential_id", LargeBinary, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("sign_count", BigInteger, nullable=False),
    Column("transports", ARRAY(Text), nullable=False),
    Column("aaguid", Uuid),
    Column("backed_up", Boolean, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("last_use_time", DateTime(timezone=True)),
)
_mine = table.c.user_id == param("person_id", Uuid())
_all = Statement(select(table).where(_mine).order_by(table.c.id.desc()))
_insert = Statement(
    insert(table)
    .values(**params("user_id credential_id public_key sign_count transports aaguid backed_up display_name"))
    .on_conflict_do_nothing(index_elements=["credential_id"])
    .returning(*table.c)
)
_find = Statement(
    select(*table.c, tenants.LANDING, users.table.c.session_epoch)
    .join(users.table, users.table.c.id == table.c.user_id)
    .where(table.c.credential_id == param("credential_id"))
)
# Authenticators that count nothing say 0 for ever; any other count rises, or there are two of them.
_use = Statement(
    update(table)
    .where(
        table.c.id == param("passkey_id"),
        or_(
            table.c.sign_count < param("count", BigInteger()),
            and_(table.c.sign_count == 0, param("count", BigInteger()) == 0),
        ),
    )
    .values(sign_count=param("count", BigInteger()), backed_up=param("saved", Boolean()), last_use_time=func.now())
    .returning(table.c.id)
)
_delete = Statement(delete(table).where(_mine, table.c.id == param("passkey_id")).returning(table.c.id))


class PasskeyNotFound(faults.NotFound):
    """The caller has no such passkey."""

    def __init__(self, passkey_id: str) -> None:
        super().__init__("there is no such passkey", passkey_id=passkey_id)


class FactorLimit(faults.FailedPrecondition):
    """There are as many passkeys as one person may have."""

    def __init__(self) -> None:
        super().__init__("there are ten passkeys already; remove one first", limit=MOST)


async def held(tx: Transaction, user_id: object) -> list[Row]:
    """Give the passkeys of a person, newest first."""
    return await tx.all(_all, person_id=user_id)


async def shown(tx: Transaction, user_id: object) -> list[factor_pb2.Passkey]:
    """Give the passkeys of a person as their owner sees them, newest first."""
    return [wire(row) for row in await held(tx, user_id)]


async def find(tx: Transaction, credential_id: bytes) -> Row | None:
    """Give a passkey with what a login needs of its owner, in whatever tenant."""
    return await tx.one(_find, credential_id=credential_id)


async def use(tx: Transaction, passkey_id: object, *, sign_count: int, backed_up: bool) -> bool:
    """Note a use; False when the authenticator's count has not risen, or the passkey was removed."""
    return await tx.one(_use, passkey_id=passkey_id, count=sign_count, saved=backed_up) is not None


async def begin(tx: Transaction, party: RelyingParty) -> pb.BeginPasskeyRegistrationResponse:
    """Give the caller's browser what it needs to make one more."""
    await reauthentications.require(tx)
    caller = calls.caller()
    known = await held(tx, caller.id)
    if len(known) >= MOST:
        raise FactorLimit
    person = await profiles.member(tx, caller.id)
    challenge = await challenges.create(tx, "register", user_id=caller.id, session_id=caller.session_id)
    await outbox.record(tx, f"user:{caller.id}")
    options = party.registration_options(
        handle=handle(caller.id),
        email=person["email"],
        name=person["display_name"],
        known=[row["credential_id"] for row in known],
        challenge=challenge,
    )
    return pb.BeginPasskeyRegistrationResponse(options_json=options)


async def answer(
    tx: Transaction,
    request: pb.FinishPasskeyRegistrationRequest,
    party: RelyingParty,
    source: Source,
    letters: Letters,
) -> pb.FinishPasskeyRegistrationResponse | None:
    """Register what a browser made, or note the refusal and give None; the caller commits either."""
    caller = calls.caller()
    await users.lock(tx, caller.id)
    await sessions.current(tx)  # a new password may have ended it since the ceremony began
    if (stored := await requests.recall(tx, request)) is not None:
        return stored  # type: ignore[no-any-return]
    try:
        given = ceremonies.read(request.credential_json)
        await _take(tx, given)
        made = party.registered(given, given.challenge)
    except PasskeyInvalid:
        await refuse(tx, source, caller.id)
        return None
    done = await requests.once(tx, request, lambda tx, request: register(tx, request, given, made, source))
    await notices.post(tx, letters, notices.PASSKEY_ADDED)
    return done


async def register(
    tx: Transaction,
    request: pb.FinishPasskeyRegistrationRequest,
    given: Given,
    made: VerifiedRegistration,
    source: Source,
) -> pb.FinishPasskeyRegistrationResponse:
    """Store a passkey of the caller that was checked, with recovery codes when it is the first factor."""
    caller = calls.caller()
    first = not await factors.kinds(tx, caller.id)
    if len(await held(tx, caller.id)) >= MOST:
        raise FactorLimit
    row = await tx.one(
        _insert,
        user_id=caller.id,
        credential_id=made.credential_id,
        public_key=made.credential_public_key,
        sign_count=made.sign_count,
        transports=_transports(given.transports),
        aaguid=uuid.UUID(made.aaguid),
        backed_up=made.credential_backed_up,
        display_name=request.display_name,
    )
    if row is None:
        raise FactorExists("this passkey is registered already")
    passkey = wire(row)
    codes = await recoveries.replace(tx, caller.id) if first else []
    user = f"user:{caller.id}"
    await events.write(tx, "auth.factor.register_passkey", user, source=source, user_id=caller.id)
    await outbox.record(tx, user, {"passkey_id": passkey.id, "name": passkey.display_name})
    return pb.FinishPasskeyRegistrationResponse(passkey=passkey, recovery_codes=codes)


async def remove(
    tx: Transaction, request: pb.DeletePasskeyRequest, source: Source, letters: Letters
) -> pb.DeletePasskeyResponse:
    """Remove a passkey of the caller, and the recovery codes when no factor is left."""
    caller = calls.caller()
    await users.lock(tx, caller.id)
    await reauthentications.require(tx)
    if await tx.one(_delete, person_id=caller.id, passkey_id=request.passkey_id) is None:
        raise PasskeyNotFound(request.passkey_id)
    await recoveries.settle(tx, caller.id)
    user = f"user:{caller.id}"
    await events.write(tx, "auth.factor.delete_passkey", user, source=source, user_id=caller.id)
    await outbox.record(tx, user, {"passkey_id": request.passkey_id})
    await notices.post(tx, letters, notices.PASSKEY_REMOVED)
    return pb.DeletePasskeyResponse()


async def refuse(tx: Transaction, source: Source, user_id: object = None) -> None:
    """Note that a passkey was refused; of whom, where that is known."""
    resource, failure = f"user:{user_id}" if user_id is not None else "passkey:unknown", {"factor": "passkey"}
    await events.write(tx, "auth.factor.refuse", resource, source=source, user_id=user_id, failure=failure)
    await outbox.record(tx, resource, failure, action="auth.factor.refuse", actor=("service", "auth"))


def handle(user_id: object) -> bytes:
    """Give the name under which authenticators keep a person; it says nothing of them."""
    return uuid.UUID(str(user_id)).bytes


def wire(row: Row) -> factor_pb2.Passkey:
    """Give a passkey as its owner sees it."""
    return factor_pb2.Passkey(
        id=str(row["id"]),
        display_name=row["display_name"],
        backed_up=row["backed_up"],
        create_time=row["create_time"],
        last_use_time=row["last_use_time"],
    )


async def _take(tx: Transaction, given: Given) -> None:
    """Spend the challenge that the caller's session was given, or refuse."""
    caller = calls.caller()
    challenge = await challenges.take(tx, "register", given.challenge)
    bound = (str(challenge["user_id"]), str(challenge["session_id"])) if challenge is not None else None
    if bound != (caller.id, caller.session_id):
        raise PasskeyInvalid


def _transports(given: list[Any]) -> list[str]:
    """Keep what is known; it comes from a browser and goes back to it."""
    return sorted({name for name in given if name in TRANSPORTS})
