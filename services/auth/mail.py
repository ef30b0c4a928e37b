"""Mail: how it leaves; by SMTP, or as files in a folder that `triptych mail` shows."""

import asyncio
import os
import uuid
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib

from services.auth.settings import AuthSettings
from services.kit import clock

SEND_SECONDS = 20.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Sender(Protocol):
    """A way for a mail to leave."""

    async def send(self, message: EmailMessage) -> None:
        """Send one mail, or raise OSError or SMTPException."""


class Smtp:
    """An SMTP server, with STARTTLS where it offers it; a password goes to none in clear, but on this machine."""

    def __init__(self, url: str, password: str | None) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._tls else 25)
        self._user = unquote(parts.username) if parts.username else None
        self._password = password
        self._starttls = True if password and not self._tls and self._host not in LOOPBACK else None

    async def send(self, message: EmailMessage) -> None:
        await aiosmtplib.send(
            message,
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            use_tls=self._tls,
            start_tls=self._starttls,
            timeout=SEND_SECONDS,
        )


class Mailbox:
    """A folder with one file a mail, for development."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, message: EmailMessage) -> None:
        await asyncio.to_thread(self._write, message.as_bytes(policy=SMTP))

    def _write(self, data: bytes) -> None:
        """Write under a name that lists in order of time; nobody else may read it, and nobody sees half of it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{clock.now():%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:8]}"
        draft = self._folder / f".{name}"
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(data)
        draft.rename(self._folder / f"{name}.eml")


def sender(settings: AuthSettings) -> Sender:
    """Give the way that the settings name."""
    if settings.smtp_url:
        password = settings.secret(settings.smtp_password_file) if settings.smtp_password_file else None
        return Smtp(settings.smtp_url, password)
    if settings.data_dir is None:
        raise ValueError("settings without smtp_url have a data_dir; check() refuses others")
    return Mailbox(settings.data_dir / "mailbox")
