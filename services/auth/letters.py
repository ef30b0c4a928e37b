"""Letters: what is written to people. They leave beside the call that asked for them.

A letter is sent after the commit that it tells of. One that fails is logged and lost: what it holds can be asked for
again. Addresses and codes never reach the log; links are made of the settings, never of a request.
"""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import aiosmtplib
import structlog

from services.auth.mail import Sender
from services.kit import clock, faults

MOST_UNDER_WAY = 100
CLOSE_SECONDS = 3.0
LATER = 0.02
"""Seconds by which the caller has their answer, before anything is done that could tell by its time what it is."""
_log = structlog.get_logger()


class Letters:
    """Writes mails and sends them beside the call that asked for them."""

    def __init__(self, *, sender: Sender, from_address: str, public_url: str) -> None:
        self._sender = sender
        self._from = from_address
        self._public_url = public_url.rstrip("/")
        self._under_way: set[asyncio.Task[None]] = set()

    def verify(self, to: str, code: str) -> None:
        """Ask somebody to prove the address."""
        self._post(
            to,
            "Prove your address for Triptych",
            "Somebody, hopefully you, registered with this address. To prove that it is yours, call"
            " triptych.auth.v1.AuthService/VerifyEmail within 24 hours with the code"
            f"\n\n{code}{self._link('verify-email', code)}\n\n"
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

    def returned(self, to: str) -> None:
        """Tell somebody who belonged nowhere that they are a member of a tenant again."""
        self._post(
            to,
            "You are a member again at Triptych",
            "An invitation was used with this address, and your account belongs to a tenant again. Log in with the"
            " password that you have, or ask for a new one.\n\nIf it was not you, you need do nothing: nobody but you"
            " can log in.\n",
        )

    def change(self, to: str, code: str) -> None:
        """Ask somebody to prove the address that their account is to have."""
        self._post(
            to,
            "Prove your new address for Triptych",
            "Somebody, hopefully you, wants a Triptych account to have this address. If it is yours, call"
            " triptych.auth.v1.AuthService/VerifyEmail within 24 hours with the code"
            f"\n\n{code}{self._link('verify-email', code)}\n\n"
            "If it was not you, do nothing: without the code nothing changes.\n",
        )

    def taken(self, to: str) -> None:
        """Tell somebody that their address was to become that of another account."""
        self._post(
            to,
            "Your address and another account with Triptych",
            "Somebody, perhaps you, wanted another account to have this address. It is the address of your account,"
            " and nothing was changed.\n\nIf it was not you, you need do nothing.\n",
        )

    def changing(self, to: str) -> None:
        """Tell somebody at their address that another was asked for."""
        self._post(
            to,
            "A new address for your Triptych account was asked for",
            "Somebody who is logged in as you, hopefully you, asked for another address of your account. It changes as"
            " soon as the other address is proven.\n\nIf it was not you, change your password now: that ends all"
            " sessions and what they asked for.\n",
        )

    def changed(self, to: str) -> None:
        """Tell somebody at their old address that it is not theirs here any more."""
        self._post(
            to,
            "The address of your Triptych account was changed",
            "Your account has another address now; this one is no longer used.\n\nIf it was not you, turn to an admin"
            " of your tenant.\n",
        )

    def reset(self, to: str, code: str) -> None:
        """Give somebody the code to set a new password."""
        self._post(
            to,
            "A new password for Triptych",
            "Somebody, hopefully you, asked for a new password. To set it, call"
            " triptych.auth.v1.AuthService/ResetPassword within 30 minutes with the code"
            f"\n\n{code}{self._link('reset-password', code)}\n\n"
            "Only the newest mail counts. If it was not you, do nothing: your password stays as it is.\n",
        )

    def password_changed(self, to: str) -> None:
        """Tell somebody that they have a new password."""
        self._post(
            to,
            "Your password for Triptych was changed",
            "Your password was changed, and all your sessions have ended.\n\nIf it was not you, ask for a new password"
            " (triptych.auth.v1.AuthService/RequestPasswordReset) and turn to an admin of your tenant.\n",
        )

    def factors_changed(self, to: str, what: str, when: datetime) -> None:
        """Tell somebody what was changed of their second factors."""
        self._post(
            to,
            "The second factors of your Triptych account were changed",
            f"{what} on {when:%Y-%m-%d} at {when:%H:%M} UTC.\n\nIf it was you, you need do nothing.\n\n"
            "If it was not you, set a new password now (triptych.auth.v1.AuthService/RequestPasswordReset sends you the"
            " code): that ends all sessions. Then log in, look at your sessions and your second factors, remove what is"
            " not yours and make new recovery codes. If you cannot log in any more, turn to an admin of your tenant.\n",
        )

    def later(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do what ends in a letter once the caller has their answer, and outside of their call."""
        self._begin(lambda: _later(work), "asked for")

    async def close(self) -> None:
        """Give what is under way a moment to leave, with what comes of it."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._under_way:
                    await asyncio.wait(self._under_way)
        except TimeoutError:
            for task in self._under_way:
                task.cancel()

    def _link(self, page: str, code: str) -> str:
        return f"\n\nor open {self._public_url}/{page}#code={quote(code)}" if self._public_url else ""

    def _post(self, to: str, subject: str, text: str) -> None:
        self._begin(lambda: self._send(to, subject, text), subject)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]], subject: str) -> None:
        """Run beside the call: in no call's context, and not too much at once."""
        if len(self._under_way) >= MOST_UNDER_WAY:
            _log.error("a mail was not sent: too many are under way", subject=subject)
            return
        task = asyncio.create_task(work(), context=Context())
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a mail was not sent", exc_info=error)

    async def _send(self, to: str, subject: str, text: str) -> None:
        try:
            await self._sender.send(self._message(to, subject, text))
        except (OSError, aiosmtplib.SMTPException) as error:
            _log.error("a mail was not sent", subject=subject, error=type(error).__name__)

    def _message(self, to: str, subject: str, text: str) -> EmailMessage:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._from, to, subject
        message["Date"] = format_datetime(clock.now())
        message["Message-ID"] = f"<{uuid.uuid4()}@{self._from.rpartition('@')[2]}>"
        message.set_content(text, cte="7bit")  # a code stands on one line, as it was given
        return message


async def _later(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await asyncio.sleep(LATER)
    try:
        await work()
    except faults.Fault as fault:
        _log.error("a mail that was asked for was not sent", error=fault.text, reason=fault.reason)
