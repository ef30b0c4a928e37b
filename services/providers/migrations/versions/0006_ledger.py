"""One index of the ledger fewer: the order in which it is read is its primary key."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("CREATE UNIQUE INDEX usage_events_place ON usage_events (tenant_id, day, id)")
    op.execute("ALTER TABLE usage_events DROP CONSTRAINT usage_events_pkey")
    op.execute("ALTER TABLE usage_events ADD CONSTRAINT usage_events_pkey PRIMARY KEY USING INDEX usage_events_place")
    op.execute("DROP INDEX usage_events_page")
