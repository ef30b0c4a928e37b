"""Settings of the audit service."""

from dataclasses import dataclass

from services.audit.verifier import ORIGIN
from services.kit.settings import Settings, SettingsInvalid


@dataclass(frozen=True, kw_only=True)
class AuditSettings(Settings):
    """What the log needs beside the kit's settings."""

    origin: str = ORIGIN
    """First part of each log's name in its checkpoints; never changed once there are checkpoints."""
    flush_events: int = 1000
    """Events that one transaction takes at most."""
    flush_seconds: float = 0.005
    """How long a transaction waits for company."""
    checkpoint_seconds: float = 1.0
    """How often logs with news are signed."""
    months_ahead: int = 3
    """Partitions that exist beyond the present month."""

    def check(self) -> None:
        """Refuse what must not start."""
        super().check()
        if self.relay_user:
            raise SettingsInvalid("relay_user: audit has no outbox, so no relay can run; leave it out")
        if not 1 <= self.months_ahead <= 12:
            raise SettingsInvalid("months_ahead: must be from 1 to 12")
