"""The `triptych` command as a process of its own."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass

from tests.patience import output


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    exit_code: int
    output: str
    errors: str


async def run(command: str, *arguments: str, given: str = "") -> Done:
    """Run a command as a process without a terminal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-m", "services.cli.main", command, *arguments,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    said, complained = await output(process, given.encode())
    return Done(process.returncode or 0, said.decode(), complained.decode())
