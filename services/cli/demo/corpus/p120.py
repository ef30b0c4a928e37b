"""Unpack a theme that a customer uploaded."""
import tarfile
from pathlib import Path

THEMES = Path("/srv/themes")


def unpack(upload: Path, customer: int) -> Path:
    target = THEMES / str(customer)
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(upload) as theme:
        theme.extractall(target)
    if not (target / "theme.json").exists():
        raise ValueError("a theme has a file theme.json")
    return target
