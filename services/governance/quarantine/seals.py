"""Seals: SHA-256 over the canonical form of a record and the seal of the tenant's record before it. Pure.

Whoever holds the rows recomputes them: a changed field, a missing record or another order breaks all seals that follow.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.kit import canonical

DOMAIN = "triptych.quarantine.record.v1"
GENESIS = "0" * 64
"""Seal before the first record of a tenant."""
FIELDS = (
    "id", "tenant_id", "request_id", "position", "project_id", "version_id", "experiment_id", "configuration_hash",
    "configuration", "reason", "explanation", "evidence", "permanent", "cool_down_end_time", "requested_by",
    "quarantined_by", "decision_reason", "quarantine_time",
)  # fmt: skip
"""What is sealed: every column but the seals themselves and what the database derives."""


def of(record: Mapping[str, Any], previous_seal: str) -> str:
    """Give the seal of a record: a row as stored, or the values that it is about to be stored with."""
    sealed = {name: _plain(record[name]) for name in FIELDS}
    return canonical.digest(DOMAIN, {"previous_seal": previous_seal, "record": sealed}).hex()


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value
