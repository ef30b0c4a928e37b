"""Alembic environment of the schema `audits`. What reaches the newest revision seals the schema: see guards.sql."""

from typing import Any

from alembic import context
from sqlalchemy import text

from services.kit.migrations import run_environment

_GUARDED = """
SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
               WHERE n.nspname = 'triptych_guards' AND p.proname = 'seal')
"""


def seal(ctx: Any, step: Any, **_: Any) -> None:
    """In the transaction of the last migration, so that nobody finds the schema as new and still open."""
    if step.up_revision_id == context.script.get_current_head() and ctx.connection.execute(text(_GUARDED)).scalar():
        ctx.connection.execute(text("SELECT triptych_guards.seal(:revision)"), {"revision": step.up_revision_id})


run_environment(on_version_apply=seal)
