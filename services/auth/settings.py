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
    tarpit_seconds: float = 1.0
    """How much longer each refusal takes from five failures in a row on, and again every five."""
    webauthn_rp_id: str = ""
    """Domain that passkeys belong to (WebAuthn's relying party), for good; empty: there are no passkeys."""
    webauthn_origins: str = ""
    """Origins of the pages that ask for passkeys, commas between: https://app.example.com."""
    source_logins: int = 20
    """Logins and registrations that one network address may try in a minute."""
    source_bad_secrets: int = 10
    """Secrets of agents that nobody has which one network address may try in a minute."""
    public_url: str = ""
    """Address of a page that takes codes from mails; empty: mails hold the code alone. Never taken from a request."""
    smtp_url: str = ""
    """smtp://[USER@]HOST[:PORT] (STARTTLS where offered, with a password always) or smtps://…; empty: a mailbox."""
    smtp_password_file: Path | None = None
    mail_from: str = "triptych@localhost"
    """Sender of mails."""

    def check(self) -> None:
        super().check()
        if not self.smtp_url and (self.profile == "production" or self.data_dir is None):
            raise SettingsInvalid("smtp_url: needed in production, and wherever there is no data_dir for a mailbox")
        if self.smtp_url and urlsplit(self.smtp_url).scheme not in {"smtp", "smtps"}:
            raise SettingsInvalid("smtp_url: must begin with smtp:// or smtps://")
        if bool(self.webauthn_rp_id) != bool(self.passkey_origins):
            raise SettingsInvalid("webauthn_rp_id, webauthn_origins: set both, or none")
        for origin in self.passkey_origins:
            if not _belongs(origin, self.webauthn_rp_id):
                raise SettingsInvalid(f"webauthn_origins: {origin} is no https page of {self.webauthn_rp_id}")
        if not 0 <= self.tarpit_seconds <= 2:
            raise SettingsInvalid("tarpit_seconds: must be 0 to 2")
        if not 1 <= self.lock_failures <= 100:
            raise SettingsInvalid("lock_failures: must be 1 to 100")

    @property
    def passkey_origins(self) -> list[str]:
        """Origins of pages that may ask for passkeys."""
        return [origin.strip() for origin in self.webauthn_origins.split(",") if origin.strip()]

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


def _belongs(origin: str, rp_id: str) -> bool:
    """Say whether a browser would let a page of this origin use passkeys of this domain."""
    parts = urlsplit(origin)
    host = parts.hostname or ""
    secure = parts.scheme == "https" or (parts.scheme == "http" and host == "localhost")
    plain = origin == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
    return secure and plain and (host == rp_id or host.endswith(f".{rp_id}"))
