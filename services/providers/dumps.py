"""Memory that must not become a file: this process leaves no core and lets no other process of its user read it."""

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def forbid() -> None:
    """Take the right away, for good; the limit for the process and what it starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)  # Linux has it
    if prctl is not None and prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the process could not be made undumpable")
