"""The first admin of a tenant: `python -m services.auth bootstrap --tenant acme` prints an invitation.

There is no default password and no default admin. Whoever can run this can read the service's secrets already; once a
tenant has an admin who can log in, that admin invites, and this refuses. Somebody whose mail was lost is none yet.
"""

import argparse
import asyncio
import re
from collections.abc import Sequence

import asyncpg

from services.auth import foundations, invitations, tenants, users
from services.auth.settings import AuthSettings
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database

ACTOR = "bootstrap"
_SLUG = re.compile(r"[a-z][a-z0-9-]{1,38}[a-z0-9]")


class BootstrapRefused(Exception):
    """The tenant is not one to be bootstrapped; the text says what to do."""


async def invite(db: Database, slug: str) -> str:
    """Give the code of a one-time admin invitation into the tenant, which is made if there is none."""
    if not _SLUG.fullmatch(slug):
        raise BootstrapRefused(f"{slug!r} is no slug: take 3 to 40 of a-z, 0-9 and -, a letter first and no - last")
    tenant_id = await _tenant(db, slug)
    async with db.begin(tenant=tenant_id) as tx:
        if await users.has_admin(tx):
            raise BootstrapRefused(f"{slug} has an admin: ask them for an invitation (InvitationService)")
        return await invitations.bootstrap(tx, by=ACTOR)


async def _tenant(db: Database, slug: str) -> str:
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        found = await tenants.find(tx, slug)
        new_id = str(await tx.connection.fetchval("SELECT uuidv7()"))
    if found is None:
        async with db.begin(tenant=new_id) as tx:
            created = await foundations.bootstrap(tx, slug, by=ACTOR)
        return new_id if created else await _tenant(db, slug)  # somebody else made it at the same moment
    if found["delete_time"] is not None:
        raise BootstrapRefused(
            f"the tenant {slug} was deleted, and its slug is not given twice: choose another, or bring it back with"
            f" `triptych tenants undelete {slug}`"
        )
    return str(found["id"])


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m services.auth bootstrap", description=__doc__)
    parser.add_argument("--tenant", required=True, metavar="SLUG", help="tenant, made if there is none")
    slug: str = parser.parse_args(arguments).tenant
    try:
        code = asyncio.run(_invite(slug))
    except BootstrapRefused as refusal:
        parser.exit(1, f"{refusal}\n")
    except (OSError, asyncpg.CannotConnectNowError) as error:
        parser.exit(1, f"the database does not answer: start the stack with `triptych up`, and try again ({error})\n")
    print(code)  # noqa: T201 - it is what the command is for


async def _invite(slug: str) -> str:
    db = await Database.connect(AuthSettings.load(), size=1)
    try:
        return await invite(db, slug)
    finally:
        await db.close()
