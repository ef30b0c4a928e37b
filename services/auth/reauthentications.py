"""Reauthentication: who changes factors, address or account has shown minutes ago, in this session, who they are.

It counts as long as the session does: whatever ends sessions (a new password, say) ends this at once, even while the
access token is still taken for good. Lock the person first, so that nothing ends the session in between.
"""

from datetime import datetime, timedelta

from sqlalchemy import Interval, func, select, update

from services.auth import sessions, users
from services.kit import calls, faults
from services.kit.db import Statement, Transaction, param

COUNTS = timedelta(minutes=5)

_session = sessions.table.c.id == param("session_id")
_recent = Statement(
    select(sessions.table.c.id)
    .join(users.table, users.table.c.id == sessions.table.c.user_id)
    .where(
        _session,
        sessions.LIVE,
        sessions.table.c.reauthenticate_time > func.now() - param("counts", Interval()),
    )
)
_note = Statement(
    update(sessions.table)
    .where(_session, sessions.table.c.revoke_time.is_(None))
    .values(reauthenticate_time=func.now())
    .returning(sessions.table.c.reauthenticate_time)
)


class ReauthenticationRequired(faults.PermissionDenied):
    """The caller has to show again who they are."""

    def __init__(self) -> None:
        super().__init__("call AuthService.Reauthenticate first; it counts for five minutes")


async def require(tx: Transaction) -> None:
    """Let the caller through who reauthenticated in this session, in the last five minutes."""
    if await tx.one(_recent, session_id=calls.caller().session_id, counts=COUNTS) is None:
        raise ReauthenticationRequired


async def note(tx: Transaction, session_id: object) -> datetime | None:
    """Note it of a session, and say until when it counts; None when the session has ended."""
    row = await tx.one(_note, session_id=session_id)
    return None if row is None else row["reauthenticate_time"] + COUNTS
