"""Prepare the folder in which jobs leave their results."""
import grp
import os
import stat
from pathlib import Path


def prepare(folder: Path, group: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, -1, grp.getgrnam(group).gr_gid)
    os.chmod(folder, stat.S_IRWXU | stat.S_IRWXG)
    return folder


def results(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
