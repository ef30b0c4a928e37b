"""E-mail addresses: what counts as one, and the key by which two of them are the same.

The part before the @ is ASCII (RFC 5321), so that no letter looks like another one's; domains may be international
and are compared in their ASCII form. Nothing is asked of the network.
"""

import hashlib
import unicodedata
from dataclasses import dataclass

from email_validator import EmailNotValidError, validate_email

from services.kit.faults import InvalidArgument


class EmailRefused(InvalidArgument):
    """What was given is no e-mail address."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address as it was given, and its key."""

    text: str
    key: str

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key, for what must not hold the address."""
        return hashlib.sha256(self.key.encode()).digest()


def parse(text: str) -> Address:
    """Read an address, or refuse it."""
    try:
        found = validate_email(text, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError as error:
        raise EmailRefused("this is no e-mail address; correct it", problem=str(error)) from None
    return Address(found.normalized, _key(f"{found.local_part}@{found.ascii_domain}"))


def lenient(text: str) -> Address:
    """Read an address that somebody logs in with; one that is none belongs to nobody, and is told no more than that.

    Its key begins with a blank, as no address does: brought to its plain form, it might be somebody's.
    """
    try:
        return parse(text)
    except EmailRefused:
        return Address(text, " " + _key(text.replace("\0", "\ufffd")))


def _key(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
