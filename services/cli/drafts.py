"""Files that commands write: whole or not at all, and never in the place of what is no file, such as a device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

ALL = 0o666
"""Readable as the user's umask says."""
OWN = 0o600


@contextmanager
def drafted(file: Path, mode: int = ALL) -> Iterator[BinaryIO]:
    """Give what to write into. It takes the place of the file when it is whole, and goes away when that fails."""
    if file.exists() and not file.is_file():
        raise click.ClickException(f"{file} is no ordinary file, and would be replaced by one: name another")
    place = file.resolve()  # where a link leads, so that the link stays
    draft = place.with_name(f"{place.name}.{os.getpid()}.part")
    out = _open(draft, mode, file)
    try:
        with out:
            yield out
        draft.replace(place)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _open(draft: Path, mode: int, file: Path) -> BinaryIO:
    """Open the draft; what keeps it from being opened is said of the file that somebody named."""
    try:
        draft.unlink(missing_ok=True)  # of a process of the same number that was killed
        return os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode), "wb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
