"""The home folder: its layout, its secrets, and the lock that lets one stack at a time use it.

Folders are 0700 and files 0600. Run by root, the home and its postgres folder are 0711, because the
database then runs as another user, who has to pass through them to its own data folder.
"""

import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

from services.cli.stack.faults import StackFault

FOLDERS: Final = ("config", "data", "logs", "openbao", "postgres", "run", "secrets", "valkey")


class Home:
    """One folder, one stack."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: int | None = None

    def open(self) -> None:
        """Create what is missing and take the lock, or say who has it."""
        passage = 0o711 if os.geteuid() == 0 else 0o700
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._check_owner()
        self.path.chmod(passage)
        for name in FOLDERS:
            folder = self.path / name
            folder.mkdir(exist_ok=True, mode=0o700)
            folder.chmod(passage if name == "postgres" else 0o700)
        self._take_lock()
        if not (self.path / "id").exists():
            self.write("id", secrets.token_hex(8))

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def id(self) -> str:
        """Random name of this home; it survives moving the folder."""
        return self.read("id")

    def folder(self, *names: str) -> Path:
        """Return a folder inside, created when it is missing."""
        folder = self.path.joinpath(*names)
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def read(self, *names: str) -> str:
        """Read a small text file."""
        return self.path.joinpath(*names).read_text(encoding="utf-8")

    def has(self, *names: str) -> bool:
        """Tell whether a file exists."""
        return self.path.joinpath(*names).exists()

    def write(self, *names_and_text: str) -> Path:
        """Write a small text file inside; the last argument is the text."""
        *names, text = names_and_text
        return replace(self.path.joinpath(*names), text)

    def secret(self, name: str) -> Path:
        """Return the file of a password; the first call makes the password up."""
        path = self.path / "secrets" / name
        if not path.exists():
            self.write("secrets", name, secrets.token_urlsafe(32))
        return path

    def remember(self, name: str, value: Any) -> None:
        """Keep a small JSON document."""
        self.write(name, json.dumps(value, indent=2, sort_keys=True) + "\n")

    def recall(self, name: str) -> dict[str, Any]:
        """Read what was remembered, or nothing."""
        if not self.has(name):
            return {}
        document: dict[str, Any] = json.loads(self.read(name))
        return document

    def _check_owner(self) -> None:
        owner = self.path.stat().st_uid
        if owner != os.geteuid():
            raise StackFault(
                f"{self.path} belongs to the user with uid {owner}, not to you (uid {os.geteuid()}): "
                "run as that user, or choose another folder with --home"
            )

    def _take_lock(self) -> None:
        path = self.path / "lock"
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode() or "unknown"
            os.close(lock)
            raise StackFault(
                f"another triptych (pid {holder}) runs in {self.path}: stop it, or choose another --home"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock


def replace(path: Path, text: str) -> Path:
    """Write a small text file as a whole or not at all; nobody else may read it. A device or the like stays one."""
    if path.exists() and not path.is_file():
        raise StackFault(f"{path} is no ordinary file, and would be replaced by one: name another")
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:  # a part of a secret is not left lying about
        draft.unlink(missing_ok=True)
        raise
    return path
