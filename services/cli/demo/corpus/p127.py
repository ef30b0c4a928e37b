"""What a person may choose to log in with."""
from pathlib import Path

LEAST = 12
MOST = 128


class Refused(ValueError):
    """The choice is not good enough; the text says why."""


def check(chosen: str, user: str, leaked: Path) -> str:
    if not LEAST <= len(chosen) <= MOST:
        raise Refused(f"choose between {LEAST} and {MOST} characters")
    if user.casefold() in chosen.casefold():
        raise Refused("do not choose your own name")
    with leaked.open() as known:
        if any(line.rstrip("\n") == chosen for line in known):
            raise Refused("this choice is known from a leak")
    return chosen
