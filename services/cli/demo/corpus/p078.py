"""Write the index of a package mirror."""
import hashlib
import json
from pathlib import Path

ALGORITHM = "sha256"


def entry(package: Path) -> dict[str, str]:
    digest = hashlib.new("sha256", package.read_bytes())
    return {"name": package.name, ALGORITHM: digest.hexdigest()}


def write(folder: Path) -> None:
    entries = [entry(package) for package in sorted(folder.glob("*.whl"))]
    (folder / "index.json").write_text(json.dumps(entries, indent=2))
