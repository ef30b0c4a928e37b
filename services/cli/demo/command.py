"""`triptych demo`: the stack in a throw-away folder, the ten steps, a clean stop; exit code 0 if all went well."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from services.cli.demo.life import Life
from services.cli.demo.narrator import Narrator, StepFailed
from services.cli.demo.people import MailMissing
from services.cli.stack import processes, topology
from services.kit.faults import Fault

START_SECONDS = 90
LOG_LINES = 12


@click.command()
@click.option("--keep", is_flag=True, help="Keep the folder with data and logs, and say where it is.")
def demo(*, keep: bool) -> None:
    """Show the life of one change, on real servers that are stopped afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="triptych-demo-"))
    folder.chmod(0o755)  # as root, the database's own user must pass
    narrator = Narrator()
    try:
        with _stack(folder, narrator) as summary:
            asyncio.run(Life(narrator, summary, folder).run())
    except (StepFailed, MailMissing, Fault) as failure:
        _explain(folder, narrator, failure)
        sys.exit(1)
    finally:
        if keep:
            click.echo(f"\nkept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    click.secho("\nAll ten steps done; everything is stopped and removed.", bold=True)


@contextmanager
def _stack(folder: Path, narrator: Narrator) -> Iterator[dict[str, Any]]:
    """Run `triptych up` on this folder and give what it says about itself."""
    narrator.begin(0, "Starting PostgreSQL, Valkey, OpenBao and seven services")
    ready = folder / "ready.json"
    command = [
        sys.executable,
        "-m",
        "services.cli.main",
        "up",
        "--home",
        str(folder / "home"),
        "--ready-file",
        str(ready),
    ]
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - the arguments are ours, and there is no shell
            processes.tie(command),  # however the demo ends, the stack ends with it
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C of the terminal reaches us alone, and we stop the stack
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise StepFailed(f"`triptych up` did not become healthy:\n{(folder / 'up.log').read_text()[-3000:]}")
            time.sleep(0.05)
        summary: dict[str, Any] = json.loads(ready.read_text())
        for name, service in summary["services"].items():
            narrator.got(f"{name:<12} {service['address']:<18} schema {service['schema']:<12} {service['health']}")
        yield summary
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _explain(folder: Path, narrator: Narrator, failure: Exception) -> None:
    """Say which step failed, with the services' own words."""
    click.secho(f"\nFAILED in step {narrator.step}", fg="red", bold=True)
    text = f"{failure.code.name} {failure.reason}: {failure.text}" if isinstance(failure, Fault) else str(failure)
    click.echo(text)
    for service in topology.read().services:
        log = folder / "home" / "logs" / f"{service.name}.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        if lines := [line for line in text.splitlines() if '"level":"info"' not in line]:
            click.echo(f"\n{log.name}:")
            click.echo("\n".join(lines[-LOG_LINES:]))
