"""Read the settings of the nightly import."""
import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    source: str
    batch: int = 500
    dry_run: bool = False


def read(path: Path) -> Settings:
    with path.open("rb") as text:
        values = tomllib.load(text)
    known = {name: values[name] for name in ("source", "batch", "dry_run") if name in values}
    return Settings(**known)
