"""Registry of plugins that partners upload."""
import shelve
from pathlib import Path


def plugins(upload: Path) -> list[str]:
    with shelve.open(str(upload)) as registry:
        return sorted(registry["plugins"])


def merge(uploads: list[Path]) -> list[str]:
    known: set[str] = set()
    for upload in uploads:
        known.update(plugins(upload))
    return sorted(known)
