"""The outside world of the demo: an AI provider that answers on loopback in the wire format of the real ones."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from services.cli.demo.stage import Stage

KEY_PREFIX = "sk-demo-"
PATIENCE_SECONDS = 10.0


@contextmanager
def provider(stage: Stage) -> Iterator[str]:
    """Run the provider and give its endpoint."""
    port = _free_port()
    process = stage.start("services.cli.demo.openai_server", "--port", str(port), "--key-prefix", KEY_PREFIX)
    try:
        _wait(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(5)


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1)
        except urllib.error.HTTPError:
            return  # it answers, and asks for a key
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the demo's provider did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
