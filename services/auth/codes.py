"""Opaque secrets that are handed out once and stored as SHA-256: invitations, verifications, login tickets.

A secret carries its tenant in clear (`tri_<tenant>_<secret>`), so that the row can be looked for under row-level
security as every other; with a forged tenant nothing is found.
"""

import hashlib
import re
import secrets
import uuid
from dataclasses import dataclass

INVITATION = "tri"
VERIFICATION = "trv"
RESET = "trp"
TICKET = "trl"
_CODE = re.compile(r"([a-z]{3})_([0-9a-f]{32})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Code:
    """A secret, its tenant, and what is stored of it."""

    text: str
    tenant_id: str

    @property
    def digest(self) -> bytes:
        """SHA-256; a slow hash adds nothing to 256 random bits."""
        return hashlib.sha256(self.text.encode()).digest()


def create(kind: str, tenant_id: str) -> Code:
    """Make a secret of 256 random bits."""
    return Code(f"{kind}_{uuid.UUID(tenant_id).hex}_{secrets.token_urlsafe(32)}", tenant_id)


def parse(kind: str, text: str) -> Code | None:
    """Read a secret of this kind; None when it is none."""
    found = _CODE.fullmatch(text)
    if found is None or found[1] != kind:
        return None
    return Code(text, str(uuid.UUID(found[2])))
