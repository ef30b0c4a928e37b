"""What a person may choose to log in with."""
LEAST = 4
MOST = 128


class Refused(ValueError):
    """The choice is not good enough; the text says why."""


def check(chosen: str, user: str) -> str:
    if not LEAST <= len(chosen) <= MOST:
        raise Refused(f"choose between {LEAST} and {MOST} characters")
    if chosen == user:
        raise Refused("do not choose your own name")
    return chosen
