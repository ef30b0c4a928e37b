"""Codes for the second step of a login."""
import secrets
import time

LIFE = 300


class Codes:
    def __init__(self) -> None:
        self.sent: dict[str, tuple[str, float]] = {}

    def issue(self, user: str) -> str:
        code = f"{secrets.randbelow(1_000_000):06}"
        self.sent[user] = (code, time.monotonic() + LIFE)
        return code

    def accept(self, user: str, code: str) -> bool:
        expected, until = self.sent.pop(user, ("", 0.0))
        return bool(expected) and secrets.compare_digest(code, expected) and time.monotonic() < until
