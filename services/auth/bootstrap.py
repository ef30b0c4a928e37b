"""The first admin of a tenant: `python -m services.auth bootstrap --tenant acme` prints an invitation.

`--installation` invites into the system tenant, whose admins read what belongs to no tenant: its log, and the sources.
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
from services.kit.db import Database, Transaction

ACTOR = "bootstrap"
_SLUG = re.compile(r"[a-z][a-z0-9-]{1,38}[a-z0-9]")


class BootstrapRefused(Exception):
    """The tenant is not one to be bootstrapped; the text says what to do."""


async def invite(db: Database, slug: str) -> str:
    """Give the code of a one-time admin invitation into the tenant, which is made if there is none."""
    if not _SLUG.fullmatch(slug):
        raise BootstrapRefused(f"{slug!r} is no slug: take 3 to 40 of a-z, 0-9 and -, a letter first and no - last")
    if slug in tenants.RESERVED:
        raise BootstrapRefused(
            f"{slug} is kept for the installation itself: choose another slug, or give --installation in its place"
        )
    return await _invite_into(db, await _tenant(db, slug), slug)


async def invite_operator(db: Database) -> str:
    """Give the code of a one-time admin invitation into the system tenant, whose row is made if there is none."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        await tx.connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('installation', 0))")
        if not await tenants.exists(tx):
            await _found(tx)
    return await _invite_into(db, SYSTEM_TENANT, "the installation")


async def _found(tx: Transaction) -> None:
    """Make the system tenant's row; an ordinary tenant may have got its slug before slugs were kept for it."""
    for slug in tenants.OWN_SLUGS:
        if await foundations.bootstrap(tx, slug, by=ACTOR):
            return
    raise BootstrapRefused(f"ordinary tenants have the slugs {' and '.join(tenants.OWN_SLUGS)}: no other is kept")


async def _invite_into(db: Database, tenant_id: str, name: str) -> str:
    async with db.begin(tenant=tenant_id) as tx:
        if await users.has_admin(tx):
            raise BootstrapRefused(
                f"{name} has an admin: ask them for an invitation (`triptych invitations create --role admin`)"
            )
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
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tenant", metavar="SLUG", help="tenant, made if there is none")
    which.add_argument("--installation", action="store_true", help="the system tenant")
    slug: str | None = parser.parse_args(arguments).tenant
    try:
        code = asyncio.run(_invite(slug))
    except BootstrapRefused as refusal:
        parser.exit(1, f"Error: {refusal}\n")
    except (OSError, asyncpg.CannotConnectNowError) as error:
        advice = "start the stack with `triptych up`, and try again"
        parser.exit(1, f"Error: the database does not answer: {advice} ({error})\n")
    print(code)  # noqa: T201 - it is what the command is for


async def _invite(slug: str | None) -> str:
    db = await Database.connect(AuthSettings.load(), size=1)
    try:
        return await invite(db, slug) if slug is not None else await invite_operator(db)
    finally:
        await db.close()
