"""Second factors: which ones somebody has, and how many wrong codes they may still give.

Wrong codes count by person, whatever the login, session or ticket, and beside the failures of passwords: who knows a
password gets no more guesses by logging in again. The count commits with the answer to the code, never without it.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Integer,
    Interval,
    MetaData,
    Table,
    Uuid,
    case,
    column,
    delete,
    func,
    select,
    table as lightweight,
)
from sqlalchemy.dialects.postgresql import insert

from services.auth.words import FACTORS
from services.kit import faults
from services.kit.db import Statement, Transaction, param
from triptych.auth.v1.factor_pb2 import FactorKind

MOST_FAILURES = 5
WINDOW = timedelta(minutes=15)

table = Table(
    "factor_attempts",
    MetaData(),
    Column("user_id", Uuid, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("begin_time", DateTime(timezone=True), nullable=False),
    implicit_returning=False,
)
# Here they are only looked for; each has a module of its own.
_totp = lightweight("totp_secrets", column("user_id"), column("confirm_time"))
_passkeys = lightweight("passkeys", column("user_id"))
_codes = lightweight("recovery_codes", column("user_id"), column("use_time"))


def _totp_of(user_id: ColumnElement[Any]) -> ColumnElement[bool]:
    return select(_totp.c.user_id).where(_totp.c.user_id == user_id, _totp.c.confirm_time.is_not(None)).exists()


def _passkey_of(user_id: ColumnElement[Any]) -> ColumnElement[bool]:
    return select(_passkeys.c.user_id).where(_passkeys.c.user_id == user_id).exists()


_code_of_person = select(_codes.c.user_id).where(
    _codes.c.user_id == param("person_id", Uuid()), _codes.c.use_time.is_(None)
)
_kinds = Statement(
    select(
        _totp_of(param("person_id", Uuid())).label("totp"),
        _code_of_person.exists().label("recovery_code"),
        _passkey_of(param("person_id", Uuid())).label("passkey"),
    )
)
_over = table.c.begin_time <= func.now() - param("window", Interval())
_count = Statement(
    insert(table)
    .values(user_id=param("person_id", Uuid()), failures=1)
    .on_conflict_do_update(
        index_elements=["user_id"],
        set_={
            "failures": case((_over, 1), else_=table.c.failures + 1),
            "begin_time": case((_over, func.now()), else_=table.c.begin_time),
        },
    )
)
_wait = Statement(
    select((table.c.begin_time + param("window", Interval()) - func.now()).label("wait")).where(
        table.c.user_id == param("person_id"), table.c.failures >= MOST_FAILURES, ~_over
    )
)
_reset = Statement(delete(table).where(table.c.user_id == param("person_id")))


class FactorRate(faults.ResourceExhausted):
    """Too many wrong codes of this person."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("too many wrong codes; wait, or use a passkey", retry_after=max(wait, timedelta(seconds=1)))


class FactorExists(faults.FailedPrecondition):
    """There is such a factor already."""


class FactorMissing(faults.FailedPrecondition):
    """There is no factor of the kind that is needed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)


async def kinds(tx: Transaction, user_id: object) -> "list[FactorKind.ValueType]":
    """Give what a person can show beside a password; recovery codes alone are no second factor."""
    row = await tx.only(_kinds, person_id=user_id)
    if not row["totp"] and not row["passkey"]:
        return []
    return [FACTORS.number(name) for name, held in row.items() if held]


async def exhausted(tx: Transaction, user_id: object) -> FactorRate | None:
    """Give the refusal when somebody has no attempt left now."""
    row = await tx.one(_wait, person_id=user_id, window=WINDOW)
    return None if row is None else FactorRate(row["wait"])


async def count(tx: Transaction, user_id: object) -> None:
    """Count a wrong code."""
    await tx.run(_count, person_id=user_id, window=WINDOW)


async def reset(tx: Transaction, user_id: object) -> None:
    """Forget the failures of a person, after a success."""
    await tx.run(_reset, person_id=user_id)
