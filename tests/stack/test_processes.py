"""Children: what is said of one that has ended."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.stack import processes
from services.cli.stack.homes import Home
from tests.patience import SECONDS

OK = '{"event":"rpc","code":"OK","level":"info"}'
WARNING = '{"event":"outbox","level":"warning"}'
LAST = "Traceback (most recent call last):"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home(tmp_path / "home")
    opened.open()
    yield opened
    opened.close()


def obituary(home: Home, script: str) -> str:
    process = processes.start(home, processes.Command("auth", ["/bin/sh", "-c", script]))
    process.popen.wait(SECONDS)
    return process.obituary("it is started again in 0.5 s")


def test_the_death_of_a_service_is_told_with_its_cause_and_without_its_daily_business(home: Home) -> None:
    lines = [WARNING, *[OK] * 30, LAST]
    script = "\n".join([*(f"echo '{line}'" for line in lines), "kill -9 $$"])
    told = obituary(home, script).splitlines()
    assert told[0].startswith("auth was killed by signal 9 (Killed); it is started again in 0.5 s. Warnings and errors")
    assert told[1:] == [f"  {WARNING}", f"  {LAST}"]


def test_a_log_that_tells_nothing_is_only_named(home: Home) -> None:
    told = obituary(home, f"echo '{OK}'; exit 3")
    assert told == (
        "auth ended with code 3; it is started again in 0.5 s. "
        f"{processes.log(home, 'auth')} ends without a warning or an error"
    )


def test_twenty_lines_are_shown_at_most(home: Home) -> None:
    told = obituary(home, "for i in $(seq 50); do echo 'line '$i; done; exit 1").splitlines()
    assert told[1:] == [f"  line {number}" for number in range(31, 51)]
