"""Notices: who has other second factors than before is told by mail, at the address as it is stored.

What is said is one of these sentences: a name that a caller gave, and any secret, stay out of it.
"""

from sqlalchemy import select

from services.auth import users
from services.auth.letters import Letters
from services.kit import calls, clock
from services.kit.db import Statement, Transaction, param

PASSKEY_ADDED = "A passkey was added to your account"
PASSKEY_REMOVED = "A passkey was removed from your account"
TOTP_CONFIRMED = "Codes from an authenticator app (TOTP) were turned on for your account"
TOTP_DISABLED = "Codes from an authenticator app (TOTP) were turned off for your account"
CODES_REPLACED = "New recovery codes were made for your account, and the old ones have ended"
_address = Statement(select(users.table.c.email).where(users.table.c.id == param("user_id")))


async def post(tx: Transaction, letters: Letters, what: str) -> None:
    """Tell the caller, who is locked, what was changed, when it has been committed."""
    to: str = (await tx.only(_address, user_id=calls.caller().id))["email"]
    when = clock.now()
    tx.on_commit(lambda: letters.factors_changed(to, what, when))
