"""Re-wrapping finds each key of a page by its id, and does not read all keys for each page.

The planner thinks little of reading a table beside a thousand look-ups, and would do so up to a few ten thousand keys:
the whole stock is then read once for each thousand keys of it.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for join in ("hashjoin", "mergejoin"):
        op.execute(f"ALTER FUNCTION store_wrappings(uuid[], text[], text[]) SET enable_{join} = off")
