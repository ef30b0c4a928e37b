"""Links to reset a forgotten login."""
import secrets

ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def link(site: str, store: dict[str, str], user: str) -> str:
    part = "".join(secrets.choice(ALPHABET) for _ in range(32))
    store[part] = user
    return f"{site}/reset/{part}"


def user(store: dict[str, str], part: str) -> str | None:
    return store.pop(part, None)
