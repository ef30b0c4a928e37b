"""Files that commands write: whole or not at all, and never in the place of what is no file, such as a device."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

ALL = 0o666
"""Readable as the user's umask says, or as the file was before: whoever narrowed it meant it."""
OWN = 0o600


@contextmanager
def drafted(file: Path, mode: int = ALL) -> Iterator[BinaryIO]:
    """Give what to write into. It takes the place of the file when it is whole, and goes away when that fails."""
    if file.exists() and not file.is_file():
        raise click.ClickException(f"{file} is no ordinary file, and would be replaced by one: name another")
    place = resolve(file)
    draft = place.with_name(f"{place.name}.{os.getpid()}.part")
    before = stat.S_IMODE(place.stat().st_mode) if mode == ALL and place.exists() else None
    out = _open(draft, mode if before is None else OWN, file)
    try:
        with out:
            if before is not None:
                os.fchmod(out.fileno(), before)
            yield out
            out.flush()
            os.fsync(out.fileno())  # else the name could outlive what it names when the power fails
        draft.replace(place)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def resolve(file: Path) -> Path:
    """Give where a link leads, so that the link stays."""
    try:
        return file.resolve()
    except RuntimeError:  # pathlib's, for links that lead to each other
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(file)) from None


def _open(draft: Path, mode: int, file: Path) -> BinaryIO:
    """Open the draft; what keeps it from being opened is said of the file that somebody named."""
    try:
        draft.unlink(missing_ok=True)  # of a process of the same number that was killed
        return os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode), "wb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
