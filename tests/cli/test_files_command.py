"""Files that commands write: whole or not at all, where they were named, and never in the place of a device."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

from services.cli import drafts
from services.cli.stack import homes
from tests.auth.people import PASSWORD
from tests.cli.conftest import Terminal
from tests.patience import SECONDS


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """What is no ordinary file, as a device is none; somebody reads it, so that nobody who writes would wait."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    yield tmp_path / "pipe"
    os.close(reader)


def write(file: Path, text: bytes, mode: int = drafts.ALL) -> None:
    with drafts.drafted(file, mode) as out:
        out.write(text)


def test_a_file_is_written_whole_and_readable_as_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    write(tmp_path / "link", b"new", drafts.OWN)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "old").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == drafts.OWN
    assert {file.name for file in tmp_path.iterdir()} == {"old", "link"}


def test_a_file_stays_as_it_was_when_its_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    with pytest.raises(TypeError):
        write(tmp_path / "old", None)  # type: ignore[arg-type]  # what cannot be written
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"old": "old"}


def test_a_file_that_was_narrowed_or_widened_stays_so(tmp_path: Path) -> None:
    for mode in (0o600, 0o664):
        (tmp_path / "old").write_text("old")
        (tmp_path / "old").chmod(mode)
        write(tmp_path / "old", b"new")
        assert (stat.S_IMODE((tmp_path / "old").stat().st_mode), (tmp_path / "old").read_bytes()) == (mode, b"new")


def test_links_that_lead_to_each_other_are_named(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match=r"symbolic links.*/one'$"):
        write(tmp_path / "one", b"new")
    assert {file.name for file in tmp_path.iterdir()} == {"one", "two"}


def test_a_secret_that_cannot_be_written_leaves_no_part_of_it(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        homes.replace(tmp_path / "tokens", "a secret \udc80")
    assert not list(tmp_path.iterdir())


def test_what_is_no_ordinary_file_is_not_replaced(pipe: Path) -> None:
    with pytest.raises(click.ClickException, match="is no ordinary file"):
        write(pipe, b"new")
    assert pipe.is_fifo()


def test_a_folder_that_is_not_there_is_told_by_the_name_that_was_given(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"'/nonexistent/ledger\.csv'$"):
        write(Path("/nonexistent/ledger.csv"), b"")


async def test_tokens_do_not_replace_a_device(admin: Terminal, pipe: Path) -> None:
    there = replace(admin, tokens=pipe)
    email = admin.person.email
    said = await there.bad("login", "--email", email, "--password-stdin", given=f"{PASSWORD}\n")
    assert f"{pipe} is no ordinary file" in said
    assert pipe.is_fifo()  # noqa: ASYNC240 - once, in a test


@pytest.mark.parametrize("verb", ["export", "chart"])
async def test_usage_does_not_replace_a_device(user: Terminal, pipe: Path, verb: str) -> None:
    pytest.importorskip("matplotlib")
    assert f"{pipe} is no ordinary file" in await user.bad("usage", verb, str(pipe))
    assert pipe.is_fifo()  # noqa: ASYNC240 - once, in a test


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--help",), 1), (("keys", "--help"), 1), (("mail",), 1), (("audit", "--help"), 64)]
)
def test_an_output_that_is_full_is_said_in_a_line(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    (tmp_path / "data" / "auth" / "mailbox").mkdir(parents=True)
    (tmp_path / "ports.json").write_text("{}")
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - as standard output, which is how a shell gives it
        done = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *arguments],
            env={**os.environ, "TRIPTYCH_HOME": str(tmp_path)}, stdout=full, stderr=subprocess.PIPE, check=False,
            timeout=SECONDS,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, b"Error: what was to be written: No space left on device\n")
