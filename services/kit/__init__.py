"""The mechanism that all services share: server, database, faults, clients, outbox, settings. It knows no business."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Read by grpc when it is imported. Nothing here forks and goes on (children are other programs): no need to prepare.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@contextmanager
def without(module: str) -> Iterator[None]:
    """Import a library as if this optional one were not installed: it costs a service megabytes that it never uses."""
    modules: dict[str, Any] = sys.modules
    if module in modules:
        yield
        return
    modules[module] = None
    try:
        yield
    finally:
        del modules[module]


with without("rich"):  # structlog colours tracebacks with it; services write JSON lines
    import structlog as structlog
