"""Mail: what is written to people, and how it leaves; by SMTP, or as files in a folder that `triptych mail` shows.

A mail is sent after the commit that it tells of, beside the call. One that fails is logged and lost: what it holds
can be asked for again. Addresses and codes never reach the log.
"""

import asyncio
import os
import uuid
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

import aiosmtplib
import structlog

from services.auth.settings import AuthSettings
from services.kit import clock

SEND_SECONDS = 20.0
MOST_UNDER_WAY = 100
_log = structlog.get_logger()


class Sender(Protocol):
    """A way for a mail to leave."""

    async def send(self, message: EmailMessage) -> None:
        """Send one mail, or raise OSError or SMTPException."""


class Smtp:
    """An SMTP server, with STARTTLS where it offers it."""

    def __init__(self, url: str, password: str | None) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._tls else 25)
        self._user = unquote(parts.username) if parts.username else None
        self._password = password

    async def send(self, message: EmailMessage) -> None:
        await aiosmtplib.send(
            message,
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            use_tls=self._tls,
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


class Letters:
    """Writes mails and sends them beside the call that asked for them."""

    def __init__(self, *, sender: Sender, from_address: str, public_url: str) -> None:
        self._sender = sender
        self._from = from_address
        self._public_url = public_url.rstrip("/")
        self._under_way: set[asyncio.Task[None]] = set()

    def verify(self, to: str, code: str) -> None:
        """Ask somebody to prove the address."""
        link = f"\n\nor open {self._public_url}/verify-email#code={quote(code)}" if self._public_url else ""
        self._post(
            to,
            "Prove your address for Triptych",
            "Somebody, hopefully you, registered with this address. To prove that it is yours, call"
            f" triptych.auth.v1.AuthService/VerifyEmail within 24 hours with the code\n\n{code}{link}\n\n"
            "If it was not you, do nothing: without the code nobody can log in with your address.\n",
        )

    def known(self, to: str) -> None:
        """Tell somebody that their address was used to register again."""
        self._post(
            to,
            "You have an account with Triptych",
            "Somebody, perhaps you, tried to register with this address. You have an account already, and nothing"
            " was changed: log in with the password that you have.\n\nIf it was not you, you need do nothing.\n",
        )

    async def close(self) -> None:
        """Give what is under way a moment to leave."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=3.0)
        for task in self._under_way:
            task.cancel()

    def _post(self, to: str, subject: str, text: str) -> None:
        if len(self._under_way) >= MOST_UNDER_WAY:
            _log.error("a mail was not sent: too many are under way", subject=subject)
            return
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._from, to, subject
        message["Date"] = format_datetime(clock.now())
        message["Message-ID"] = f"<{uuid.uuid4()}@{self._from.rpartition('@')[2]}>"
        message.set_content(text, cte="7bit")  # a code stands on one line, as it was given
        task = asyncio.create_task(self._send(message, subject))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _send(self, message: EmailMessage, subject: str) -> None:
        try:
            await self._sender.send(message)
        except (OSError, aiosmtplib.SMTPException) as error:
            _log.error("a mail was not sent", subject=subject, error=type(error).__name__)


def sender(settings: AuthSettings) -> Sender:
    """Give the way that the settings name."""
    if settings.smtp_url:
        password = settings.secret(settings.smtp_password_file) if settings.smtp_password_file else None
        return Smtp(settings.smtp_url, password)
    if settings.data_dir is None:
        raise ValueError("settings without smtp_url have a data_dir; check() refuses others")
    return Mailbox(settings.data_dir / "mailbox")
