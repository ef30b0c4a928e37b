"""Settings of the audit service."""

from dataclasses import dataclass
from pathlib import Path

from services.audit.classes import AUTHENTICATION, COMPLIANCE, DATA, DAYS
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
    witness_dir: Path | None = None
    """Folder of the file witness: on another disk than the database, best on another machine. Without it nothing
    outside of the database remembers, and a database that was set back is not noticed at the start."""
    accept_broken_anchor: str = ""
    """What a refusal to start printed, when an operator decides to go on without what the witness has seen."""
    guard_seconds: float = 60.0
    """How often the guards of the schema are looked at."""
    silence_seconds: float = 900.0
    """For how long a source may say nothing before that is an error: three times its own heartbeat_seconds."""
    missing_seconds: float = 900.0
    """For how long numbers that a source has given may be missing."""
    months_ahead: int = 3
    """Partitions that exist beyond the present month."""
    keep_authentication_days: int = DAYS[AUTHENTICATION]
    """How long personal values and archives of logins and the like are kept."""
    keep_data_days: int = DAYS[DATA]
    keep_compliance_days: int = DAYS[COMPLIANCE]
    online_days: int = 0
    """Days after its end at which a month leaves the log for the archives; 0: only by `triptych audit retire`."""
    archive_dir: Path | None = None
    """Folder of the archives; of the retired months it holds what the database does not hold any more."""
    delete_archives: bool = False
    """Delete archives whose class has expired."""
    retention_user: str = ""
    """Role that may detach and drop months; the service's own may not."""
    retention_password_file: Path | None = None

    @property
    def keep_days(self) -> dict[str, int]:
        """Days of each retention class."""
        return {
            AUTHENTICATION: self.keep_authentication_days,
            DATA: self.keep_data_days,
            COMPLIANCE: self.keep_compliance_days,
        }

    def check(self) -> None:
        """Refuse what must not start."""
        super().check()
        if self.relay_user:
            raise SettingsInvalid("relay_user: audit has no outbox, so no relay can run; leave it out")
        if not 1 <= self.months_ahead <= 12:
            raise SettingsInvalid("months_ahead: must be from 1 to 12")
        if min(self.silence_seconds, self.missing_seconds) <= 0:
            raise SettingsInvalid("silence_seconds, missing_seconds: must be more than 0")
        if min(self.keep_days.values()) < 1:
            raise SettingsInvalid("keep_…_days: each class is kept for a day at least")
        if self.online_days < 0 or (self.online_days and (self.archive_dir is None or not self.retention_user)):
            raise SettingsInvalid("online_days: months leave the log only with archive_dir and retention_user set")
        if self.delete_archives and self.archive_dir is None:
            raise SettingsInvalid("delete_archives: archive_dir must say where they are")
