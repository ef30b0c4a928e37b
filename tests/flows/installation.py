"""A whole installation for a story: `triptych up` on a folder of its own, and people who can call it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.cli.demo.narrator import Narrator
from services.cli.demo.stage import Stage

PATIENCE_SECONDS = 180
"""Ten processes start, and four times at once on a small machine."""


@contextmanager
def installation(**environment: str) -> Iterator[Stage]:
    """Run `triptych up` with these settings in the environment; stop it afterwards and see that it ends cleanly."""
    with tempfile.TemporaryDirectory(prefix="triptych flow ") as name:  # the space is on purpose
        folder = Path(name)
        folder.chmod(0o755)  # as root, the database's own user must pass
        with (folder / "up.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.cli.main", "up", "--home", "home", "--ready-file", "ready.json"],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
            )
        try:
            summary = _ready(process, folder)
            yield Stage(Narrator(), summary | {"home": str(folder / "home")}, folder)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(PATIENCE_SECONDS)
            finally:
                process.kill()  # its children end with it
        assert code == 0, (folder / "up.log").read_text()


def _ready(process: "subprocess.Popen[bytes]", folder: Path) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (folder / "ready.json").exists():
        assert process.poll() is None, (folder / "up.log").read_text()
        assert time.monotonic() < deadline, (folder / "up.log").read_text()
        time.sleep(0.05)
    summary: dict[str, Any] = json.loads((folder / "ready.json").read_text())
    return summary
