"""Registry of plugins that partners upload."""
import json
from pathlib import Path


def plugins(upload: Path) -> list[str]:
    with upload.open() as registry:
        return sorted(str(name) for name in json.load(registry)["plugins"])


def merge(uploads: list[Path]) -> list[str]:
    known: set[str] = set()
    for upload in uploads:
        known.update(plugins(upload))
    return sorted(known)
