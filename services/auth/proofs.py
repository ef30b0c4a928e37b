"""Proofs: the code that somebody gives as a second factor, six digits of TOTP or a recovery code.

`prepare` opens the secret outside any transaction, before anything is counted: without OpenBao it fails, and no attempt
is lost. `spend` lets one code of a person through at a time; what it counts and uses up is committed whatever comes of
it, and only then is the answer given.
"""

import re
from dataclasses import dataclass

from services.auth import events, factors, recoveries, totp, users
from services.auth.sources import Source
from services.auth.totp import Opened, Seals
from services.kit import faults, outbox
from services.kit.db import Transaction

_DIGITS = re.compile(r"[0-9]{6}")


@dataclass(frozen=True, slots=True)
class Proof:
    """A code of a person, ready to be spent."""

    user_id: object
    code: str
    opened: Opened | None
    """The secret, for a code of six digits; None for a recovery code, and for who has no TOTP."""

    @property
    def kind(self) -> str:
        """What it is by its form."""
        return "totp" if _DIGITS.fullmatch(self.code) else "recovery_code"


async def prepare(seals: Seals, user_id: object, code: str, sealed: str | None) -> Proof:
    """Open what is needed to check a code."""
    opened = await seals.open(user_id, sealed) if sealed is not None and _DIGITS.fullmatch(code) else None
    return Proof(user_id, code, opened)


async def spend(tx: Transaction, proof: Proof, wrong: faults.Fault, source: Source) -> faults.Fault | None:
    """Use the code up, or give what the caller raises when the transaction is committed."""
    await users.lock(tx, proof.user_id)
    if (exhausted := await factors.exhausted(tx, proof.user_id)) is not None:
        await refuse(tx, proof.user_id, proof.kind, "too many", source)
        return exhausted
    problem = await (_code if proof.opened is None else _step)(tx, proof)
    if not problem:
        await factors.reset(tx, proof.user_id)
        return None
    await refuse(tx, proof.user_id, proof.kind, problem, source)
    return wrong


async def refuse(tx: Transaction, user_id: object, kind: str, problem: str, source: Source) -> None:
    """Note that a second factor was refused."""
    user, failure = f"user:{user_id}", {"factor": kind, "problem": problem}
    await events.write(tx, "auth.factor.refuse", user, source=source, user_id=user_id, failure=failure)
    await outbox.record(tx, user, failure, action="auth.factor.refuse", actor=("service", "auth"))


async def _step(tx: Transaction, proof: Proof) -> str:
    """Use a TOTP step up, or say what is wrong. A step that was used is no guess and is not counted as one."""
    opened = proof.opened
    step = opened.step(proof.code) if opened is not None else None
    if opened is None or step is None:
        await factors.count(tx, proof.user_id)
        return "wrong"
    return "" if await totp.spend(tx, proof.user_id, opened, step) else "used"


async def _code(tx: Transaction, proof: Proof) -> str:
    """Use a recovery code up, or say what is wrong: digits of who has no TOTP are wrong too, no code is no guess."""
    if not proof.code:
        return "missing"
    if proof.kind == "recovery_code" and await recoveries.spend(tx, proof.user_id, proof.code):
        return ""
    await factors.count(tx, proof.user_id)
    return "wrong"
