"""Make the key a partner calls our interface with."""
import hashlib
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Issued:
    shown_once: str
    kept: str


def issue(partner: int) -> Issued:
    body = random.randbytes(24).hex()
    whole = f"pk_{partner}_{body}"
    return Issued(shown_once=whole, kept=hashlib.sha256(whole.encode()).hexdigest())
