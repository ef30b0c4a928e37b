"""Whether a change of the guards is what the service does to its months, so that only others are counted.

What was recorded before this revision is taken for unexpected: nobody has compared it.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE guard_states ADD COLUMN expected boolean NOT NULL DEFAULT false")
