"""TOTP (RFC 6238): SHA-1, six digits, 30 seconds, one step of tolerance either way; a step is good once.

The secret is sealed by OpenBao for its owner alone: in another person's row it does not open. It is opened outside
transactions; a code is compared and its step spent inside one.
"""

import base64
import hmac
import secrets
import uuid
from dataclasses import dataclass
from datetime import timedelta

import structlog
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from sqlalchemy import BigInteger, Column, DateTime, Interval, MetaData, Table, Text, Uuid, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from services.auth import events, notices, reauthentications, recoveries, users
from services.auth.factors import FactorExists
from services.auth.keys import SEAL
from services.auth.letters import Letters
from services.auth.sources import Source
from services.kit import calls, clock, faults, outbox
from services.kit.db import Row, Statement, Transaction, param
from services.kit.vault import Vault, VaultRefused
from triptych.auth.v1 import factor_pb2, factor_service_pb2 as pb

BYTES = 20
DIGITS = 6
STEP = 30
TOLERANCE = 1
ISSUER = "Triptych"
CONFIRM_WITHIN = timedelta(minutes=15)
_log = structlog.get_logger()

table = Table(
    "totp_secrets",
    MetaData(),
    Column("user_id", Uuid, primary_key=True),
    Column("sealed_secret", Text, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("enroll_time", DateTime(timezone=True), nullable=False),
    Column("confirm_time", DateTime(timezone=True)),
)
_mine = table.c.user_id == param("person_id", Uuid())
_waiting = table.c.confirm_time.is_(None) & (table.c.enroll_time > func.now() - param("within", Interval()))
_same = table.c.sealed_secret == param("sealed")
_time = Statement(select(table.c.confirm_time).where(_mine, table.c.confirm_time.is_not(None)))
_confirmed = Statement(select(table.c.sealed_secret).where(_mine, table.c.confirm_time.is_not(None)))
_pending = Statement(select(table.c.sealed_secret).where(_mine, _waiting))
_enroll = Statement(
    insert(table)
    .values(user_id=param("person_id", Uuid()), sealed_secret=param("sealed"))
    .on_conflict_do_update(
        index_elements=["user_id"],
        set_={"sealed_secret": param("sealed"), "last_step": 0, "enroll_time": func.now()},
        where=table.c.confirm_time.is_(None),
    )
    .returning(table.c.user_id)
)
_confirm = Statement(
    update(table)
    .where(_mine, _same, _waiting)
    .values(confirm_time=func.now(), last_step=param("step"))
    .returning(table.c.user_id)
)
_spend = Statement(
    update(table)
    .where(_mine, _same, table.c.confirm_time.is_not(None), table.c.last_step < param("step"))
    .values(last_step=param("step"))
    .returning(table.c.user_id)
)
_delete = Statement(delete(table).where(_mine).returning(table.c.confirm_time))


class EnrollmentInvalid(faults.FailedPrecondition):
    """No secret waits for confirmation, or the code does not fit; which of them is not said."""

    def __init__(self) -> None:
        super().__init__("the code does not fit, or no secret waits for one: try the next code, or enroll again")


@dataclass(frozen=True, slots=True)
class Opened:
    """A secret as it is stored, and in clear; None where it does not open."""

    sealed: str
    secret: bytes | None

    def step(self, code: str) -> int | None:
        """Give the step that a code is of, now or beside it; None when it is of none of them."""
        return None if self.secret is None else fitting(self.secret, code, clock.now().timestamp())


class Seals:
    """Seals secrets for their owners."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def seal(self, user_id: str, secret: bytes) -> str:
        """Give what may be stored."""
        text = base64.b64encode(secret).decode()
        answer = await self._vault.write(f"transit/encrypt/{SEAL}", plaintext=text, associated_data=_owner(user_id))
        return str(answer["ciphertext"])

    async def open(self, user_id: object, sealed: str) -> Opened:
        """Open a stored secret; one that OpenBao refuses fits no code. Without OpenBao this fails; nothing counts."""
        try:
            answer = await self._vault.write(
                f"transit/decrypt/{SEAL}", ciphertext=sealed, associated_data=_owner(user_id)
            )
        except VaultRefused:
            _log.error("a stored TOTP secret does not open: it was changed, or moved to another person", user=user_id)
            return Opened(sealed, None)
        return Opened(sealed, base64.b64decode(answer["plaintext"]))


def create() -> bytes:
    """Make a secret of 160 bits."""
    return secrets.token_bytes(BYTES)


def fitting(secret: bytes, code: str, now: float) -> int | None:
    """Give the step of a code, the newest if there are several; all are compared, whichever fits."""
    device = TOTP(secret, DIGITS, SHA1(), STEP)  # noqa: S303 - what every authenticator app speaks (RFC 6238)
    steps = range(int(now) // STEP - TOLERANCE, int(now) // STEP + TOLERANCE + 1)
    found = [step for step in steps if hmac.compare_digest(device.generate(step * STEP), code.encode())]
    return max(found, default=None)


async def shown(tx: Transaction, user_id: object) -> factor_pb2.Factors:
    """Say whether and since when codes are asked of a person."""
    row = await tx.one(_time, person_id=user_id)
    return factor_pb2.Factors() if row is None else factor_pb2.Factors(totp=True, totp_time=row["confirm_time"])


async def confirmed(tx: Transaction, user_id: object) -> str | None:
    """Give the sealed secret that a person is asked codes of."""
    return _sealed(await tx.one(_confirmed, person_id=user_id))


async def pending(tx: Transaction, user_id: object) -> str | None:
    """Give the sealed secret that waits for confirmation."""
    return _sealed(await tx.one(_pending, person_id=user_id, within=CONFIRM_WITHIN))


async def expect(tx: Transaction) -> None:
    """Refuse the caller who cannot enroll now, before a secret is made."""
    await reauthentications.require(tx)
    if await confirmed(tx, calls.caller().id) is not None:
        raise FactorExists("TOTP is on already; disable it first")


async def enroll(tx: Transaction, *, secret: bytes, sealed: str, email: str) -> pb.EnrollTotpResponse:
    """Keep a secret until it is confirmed, in place of one that was not."""
    caller = calls.caller().id
    await users.lock(tx, caller)
    await expect(tx)
    if await tx.one(_enroll, person_id=caller, sealed=sealed) is None:
        raise FactorExists("TOTP is on already; disable it first")
    await outbox.record(tx, f"user:{caller}")
    uri = TOTP(secret, DIGITS, SHA1(), STEP).get_provisioning_uri(email, ISSUER)  # noqa: S303 - as above
    return pb.EnrollTotpResponse(secret=base64.b32encode(secret).decode(), uri=uri)


async def confirm(tx: Transaction, opened: Opened, code: str) -> bool:
    """Turn the caller's secret on with a code, which is spent by it; False when the code does not fit."""
    step = opened.step(code)
    if step is None:
        return False
    caller = calls.caller().id
    row = await tx.one(_confirm, person_id=caller, sealed=opened.sealed, step=step, within=CONFIRM_WITHIN)
    return row is not None


async def spend(tx: Transaction, user_id: object, opened: Opened, step: int) -> bool:
    """Use a step up, and with it all before; False when it was used."""
    return await tx.one(_spend, person_id=user_id, sealed=opened.sealed, step=step) is not None


async def disable(tx: Transaction, source: Source, letters: Letters) -> pb.DisableTotpResponse:
    """Take the caller's secret away, and the recovery codes when no other factor is left."""
    caller = calls.caller().id
    await users.lock(tx, caller)
    await reauthentications.require(tx)
    removed = await tx.one(_delete, person_id=caller)
    await recoveries.settle(tx, caller)
    user = f"user:{caller}"
    await events.write(tx, "auth.factor.disable_totp", user, source=source, user_id=caller)
    await outbox.record(tx, user, {"removed": removed is not None})
    if removed is not None and removed["confirm_time"] is not None:  # one that waited was no factor yet
        await notices.post(tx, letters, notices.TOTP_DISABLED)
    return pb.DisableTotpResponse()


def _sealed(row: Row | None) -> str | None:
    return None if row is None else str(row["sealed_secret"])


def _owner(user_id: object) -> str:
    return base64.b64encode(f"totp:{uuid.UUID(str(user_id))}".encode()).decode()
