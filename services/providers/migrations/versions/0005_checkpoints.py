"""Signed checkpoints of the audit log, kept beside the receipts."""

from services.kit.migrations import create_checkpoints

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    create_checkpoints("providers")
