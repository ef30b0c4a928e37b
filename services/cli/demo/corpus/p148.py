"""Check a downloaded update against its published digest."""
import hashlib
import hmac
from pathlib import Path


def digest(update: Path) -> str:
    running = hashlib.sha256()
    with update.open("rb") as content:
        while block := content.read(1 << 20):
            running.update(block)
    return running.hexdigest()


def genuine(update: Path, published: str) -> bool:
    return hmac.compare_digest(digest(update), published.strip().lower())
