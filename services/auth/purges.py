"""Purges: what is old goes, in every tenant, once an hour, in batches that hold no lock for long.

Rows of tenants go by a function of the database that knows how old is old; the service's role cannot delete them
itself. What has no tenant it deletes here.
"""

import asyncio
import random

import structlog
from sqlalchemy import Integer, text

from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Statement, param

EVERY_SECONDS = 3600.0
BATCH = 1000
BREATH_SECONDS = 0.05
"""Pause between batches, so that calls come first."""
OLD = {
    "devices": "expire_time < now()",
    "password_resets": "expire_time < now() - interval '1 day'",
    "passkey_challenges": "expire_time < now()",
    "revocations": "forget_time < now() - interval '1 minute'",
    "mail_requests": "begin_time < now() - interval '1 day'",
    "factor_attempts": "begin_time < now() - interval '1 day'",
    "totp_secrets": "confirm_time IS NULL AND enroll_time < now() - interval '1 day'",
}
"""Tables without tenant, and which of their rows are old."""
_most = param("most", Integer())
_purge = Statement(text("SELECT purge(:most) AS gone").bindparams(_most))
_deletes = [
    Statement(
        text(
            f"WITH old AS (DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {condition}"
            " LIMIT :most)) RETURNING 1) SELECT count(*) AS gone FROM old"
        ).bindparams(_most)
    )
    for table, condition in OLD.items()
]
_log = structlog.get_logger()


async def keep(db: Database) -> None:
    """Purge for as long as the process runs; several processes may do it at once."""
    while True:
        await asyncio.sleep(EVERY_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - no secret
        try:
            gone = await run(db)
        except faults.Fault as fault:
            _log.warning("what is old is kept for now", error=fault.text)
        else:
            if gone:
                _log.info("purged", rows=gone)


async def run(db: Database, most: int = BATCH) -> int:
    """Delete all that is old, and give the number of rows."""
    return sum([await _empty(db, statement, most) for statement in (_purge, *_deletes)])


async def _empty(db: Database, statement: Statement, most: int) -> int:
    total = 0
    while True:
        async with db.begin(tenant=SYSTEM_TENANT) as tx:
            gone: int = (await tx.only(statement, most=most))["gone"]
        total += gone
        if gone < most:
            return total
        await asyncio.sleep(BREATH_SECONDS)
