"""Under which user PostgreSQL runs when root starts the stack, and where that user can reach its files.

PostgreSQL refuses root. As root we take the user `postgres`, else `nobody`. Where a folder on the way to
the home or to the wheel is closed to that user (a checkout in /root), the data folder and a copy of the
server live in /var/lib/triptych (else /var/tmp), and the home holds a link.
"""

import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.cli.stack.faults import StackFault

_SHELTERS: Final = (Path("/var/lib/triptych"), Path("/var/tmp/triptych"))  # noqa: S108 - its owner and mode are checked


@dataclass(frozen=True, slots=True)
class Account:
    """A user without privileges."""

    uid: int
    gid: int

    def reaches(self, path: Path) -> bool:
        """Tell whether every folder on the way, and the path itself, lets this user through."""
        resolved = path.resolve()
        return all(self._passes(folder.stat()) for folder in (resolved, *resolved.parents))

    def _passes(self, found: os.stat_result) -> bool:
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


def unprivileged() -> Account | None:
    """Return the user to become, or None when we are not root and stay who we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise StackFault("PostgreSQL refuses to run as root, and there is no user postgres or nobody: run as another user")


def place_data(link: Path, home_id: str, account: Account | None) -> tuple[Path, Account | None]:
    """Return PostgreSQL's data folder and the user who owns it; `link` is its name inside the home."""
    if account is None:
        link.mkdir(exist_ok=True, mode=0o700)
        return link, None
    if not link.is_symlink() and not account.reaches(link.parent):
        shelter = _shelter() / home_id
        shelter.with_suffix(".home").write_text(f"{link}\n")  # whose it is, for somebody who cleans up
        if link.exists():
            shutil.move(link, shelter)
            _give(shelter, account)
        else:
            shelter.mkdir(mode=0o700, exist_ok=True)
        link.symlink_to(shelter)
    folder = link.resolve()
    folder.mkdir(exist_ok=True, mode=0o700)
    owner = folder.stat()
    if owner.st_uid == 0:
        os.chown(folder, account.uid, account.gid)
        return folder, account
    return folder, Account(owner.st_uid, owner.st_gid)


def place_servers(package: Path, account: Account | None) -> Path:
    """Return the folder of PostgreSQL's programs, copied when the user could not execute them there."""
    programs = package / "pginstall" / "bin"
    if account is None or account.reaches(programs):
        return programs
    found = (programs / "postgres").stat()
    copy = _shelter() / f"postgresql-{found.st_size:x}-{found.st_mtime_ns:x}"
    if not copy.exists():
        _copy_servers(package, copy)
    return copy / package.name / "pginstall" / "bin"


def _copy_servers(package: Path, copy: Path) -> None:
    """Copy the package and its libraries side by side, as run paths expect; half a copy has no name."""
    draft = Path(tempfile.mkdtemp(dir=copy.parent))
    ignored = shutil.ignore_patterns("include", "*.a", "__pycache__")
    for folder in (package, package.with_name(package.name + ".libs")):
        if folder.exists():
            shutil.copytree(folder, draft / folder.name, ignore=ignored, symlinks=True)
    draft.chmod(0o755)
    try:
        draft.rename(copy)
    except OSError:  # somebody else was faster: theirs is the same
        shutil.rmtree(draft)


def _shelter() -> Path:
    """Return a folder that root alone can write and everybody can pass."""
    for folder in _SHELTERS:
        try:
            folder.mkdir(mode=0o711, exist_ok=True)
        except OSError:
            continue
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            folder.chmod(0o711)  # a strict umask has made it 0700
            return folder
    raise StackFault(
        "the database cannot reach its home, and neither /var/lib/triptych nor /var/tmp/triptych is root's: "
        "choose a home that everybody may pass through with --home, or run as another user"
    )


def _give(folder: Path, account: Account) -> None:
    for path, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(Path(path) / name, account.uid, account.gid, follow_symlinks=False)
