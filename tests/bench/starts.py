"""How long `triptych up` takes and how much memory the idle services hold."""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from services.cli.stack import topology
from tests.bench.results import Result

IDLE_SECONDS = 5


def measure() -> list[Result]:
    """Start twice on one home."""
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as folder:
        Path(folder).chmod(0o755)
        first, _ = _run(Path(folder))
        second, summary = _run(Path(folder))
    results = [
        Result("start_first_s", round(first, 2), "s", "<= 20", note="empty home to all seven services healthy"),
        Result("start_second_s", round(second, 2), "s", "<= 10", note="the same home again, stopped cleanly before"),
    ]
    for name, megabytes in sorted(summary.items()):
        results.append(Result(f"rss_mb.{name}", round(megabytes, 1), "MB", "<= 120", note="idle, children included"))
    return results


def _run(home: Path) -> tuple[float, dict[str, float]]:
    ready = home / "ready.json"
    ready.unlink(missing_ok=True)
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", "up", "--home", str(home / "home"), "--ready-file", str(ready)],
        stdout=subprocess.DEVNULL,
    )
    while not ready.exists():
        if process.poll() is not None:
            sys.exit("triptych up ended before it was ready")
        time.sleep(0.02)
    seconds = time.monotonic() - began
    time.sleep(IDLE_SECONDS)
    memory = _memory(psutil.Process(process.pid))
    process.send_signal(signal.SIGINT)
    process.wait(30)
    return seconds, memory


def _memory(up: psutil.Process) -> dict[str, float]:
    """Megabytes per service with its children; what they share with each other is counted once."""
    found = {}
    modules = {service.module: service.name for service in topology.read().services}
    for process in up.children(recursive=True):
        command = process.cmdline()
        if "-m" in command and (name := modules.get(command[command.index("-m") + 1])):
            children = sum(child.memory_full_info().uss for child in process.children(recursive=True))
            found[name] = (process.memory_info().rss + children) / 1e6
    return found
