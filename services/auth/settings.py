"""Settings of the auth service, with where their values come from."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from services.kit.settings import Settings, SettingsInvalid


@dataclass(frozen=True, kw_only=True)
class AuthSettings(Settings):
    """What the auth service needs beside what every service needs."""

    argon2_memory_kib: int = 19_456
    """Argon2id memory, time and lanes: OWASP Password Storage Cheat Sheet, the 19 MiB row."""
    argon2_time: int = 2
    argon2_lanes: int = 1
    hash_slots: int = 0
    """Passwords hashed at once; 0: one for each core. Memory is slots times argon2_memory_kib."""
    hash_queue: int = 256
    """Passwords that may wait for a slot; those beyond are refused with SERVER_BUSY."""
    access_seconds: int = 600
    """Life of an access token: 5 to 10 minutes, because it is verified without asking (RFC 9700)."""
    refresh_idle_seconds: int = 14 * 86_400
    """A session ends when it is not refreshed for so long."""
    refresh_absolute_seconds: int = 30 * 86_400
    """A session ends so long after login (NIST SP 800-63B-4, 2.1.3: AAL1)."""
    refresh_grace_seconds: int = 10
    """A refresh token that was just used still leads to the same new one, for answers that were lost."""
    key_days: int = 7
    """Days that a signing key signs for. The next one is published all that time before its use."""
    lock_failures: int = 10
    """Failed logins in a row after which an address is locked (NIST SP 800-63B-4, 3.2.2: at most 100)."""
    lock_seconds: int = 900
    """First lock of an address; each further one is twice as long, up to an hour; a day from 100 failures on."""
    source_logins: int = 20
    """Logins and registrations that one network address may try in a minute."""
    public_url: str = ""
    """Address of a page that takes codes from mails; empty: mails hold the code alone. Never taken from a request."""
    smtp_url: str = ""
    """smtp://[USER@]HOST[:PORT] (STARTTLS where offered) or smtps://…; empty: mails are files in data_dir/mailbox."""
    smtp_password_file: Path | None = None
    mail_from: str = "triptych@localhost"
    """Sender of mails."""

    def check(self) -> None:
        super().check()
        if not self.smtp_url and (self.profile == "production" or self.data_dir is None):
            raise SettingsInvalid("smtp_url: needed in production, and wherever there is no data_dir for a mailbox")
        if self.smtp_url and urlsplit(self.smtp_url).scheme not in {"smtp", "smtps"}:
            raise SettingsInvalid("smtp_url: must begin with smtp:// or smtps://")
        if not 1 <= self.lock_failures <= 100:
            raise SettingsInvalid("lock_failures: must be 1 to 100")

    @property
    def refresh_idle(self) -> timedelta:
        """A session's life without a refresh."""
        return timedelta(seconds=self.refresh_idle_seconds)

    @property
    def refresh_absolute(self) -> timedelta:
        """A session's whole life."""
        return timedelta(seconds=self.refresh_absolute_seconds)

    @property
    def refresh_grace(self) -> timedelta:
        """How long a used refresh token leads to the same new one."""
        return timedelta(seconds=self.refresh_grace_seconds)
