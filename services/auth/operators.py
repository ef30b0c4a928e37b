"""What only the operator does to a tenant: set its tier, bring a deleted one back.

`python -m services.auth tenants set-tier acme pro` and `... tenants undelete acme`. Whoever can run this can read the
service's secrets already; no RPC does it.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import asyncpg

from services.auth import tenants
from services.auth.settings import AuthSettings
from services.kit import outbox
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Transaction

ACTOR = ("service", "operator")
TIERS = ("free", "pro", "enterprise")
Act: TypeAlias = Callable[[Transaction], Awaitable[Row | None]]


class OperationRefused(Exception):
    """The tenant is not one to be changed so; the text says what to do."""


async def set_tier(db: Database, slug: str, tier: str) -> None:
    """Set the tier of a live tenant."""
    done = await _act(db, slug, "auth.tenant.set_tier", lambda tx: tenants.set_tier(tx, tier))
    if not done:
        raise OperationRefused(f"the tenant {slug} was deleted: bring it back first (undelete)")


async def undelete(db: Database, slug: str) -> None:
    """Bring a deleted tenant back, with its people and sessions as they were; one that is live stays as it is."""
    await _act(db, slug, "auth.tenant.undelete", tenants.undelete)


async def _act(db: Database, slug: str, action: str, act: Act) -> bool:
    """Change the tenant with this slug and record it; False when nothing was changed."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        found = await tenants.find(tx, slug)
    if found is None:
        raise OperationRefused(f"there is no tenant {slug}, and there never was one")
    async with db.begin(tenant=str(found["id"])) as tx:
        row = await act(tx)
        if row is not None:
            await outbox.record(tx, f"tenant:{row['id']}", tenants.wire(row), action=action, actor=ACTOR)
    return row is not None


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m services.auth tenants", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    tier = commands.add_parser("set-tier", help="set the tier of a tenant")
    tier.add_argument("slug")
    tier.add_argument("tier", choices=TIERS)
    commands.add_parser("undelete", help="bring a deleted tenant back").add_argument("slug")
    given = parser.parse_args(arguments)
    try:
        asyncio.run(_run(given))
    except OperationRefused as refusal:
        parser.exit(1, f"Error: {refusal}\n")
    except (OSError, asyncpg.CannotConnectNowError) as error:
        advice = "start the stack with `triptych up`, and try again"
        parser.exit(1, f"Error: the database does not answer: {advice} ({error})\n")


async def _run(given: argparse.Namespace) -> None:
    db = await Database.connect(AuthSettings.load(), size=1)
    try:
        if given.command == "undelete":
            await undelete(db, given.slug)
        else:
            await set_tier(db, given.slug, given.tier)
    finally:
        await db.close()
