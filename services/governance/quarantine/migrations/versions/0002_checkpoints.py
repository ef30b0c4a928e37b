"""Signed checkpoints of the audit log, kept beside the receipts."""

from services.kit.migrations import create_checkpoints

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    create_checkpoints("quarantine")
