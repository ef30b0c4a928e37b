"""Run before each server and service: drops the user, ties the process to its parent's life, executes it.

A child asks the kernel for a signal when its parent dies, so that not even SIGKILL of `triptych up` leaves
anything behind. It is a script of its own, not a preexec function, because the parent has threads. Changing
the user clears the request, hence the order.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Take PARENT SIGNAL UID GID COMMAND...; a UID of -1 keeps the user."""
    parent, signal, uid, gid = (int(text) for text in argv[:4])
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)
    os.umask(0o077)
    os.execv(argv[4], argv[4:])  # noqa: S606 - no shell is wanted: the arguments are ours, and a path may hold spaces


if __name__ == "__main__":
    main(sys.argv[1:])
