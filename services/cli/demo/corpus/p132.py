"""Keep the billing run from starting twice."""
import fcntl
import os
import sys

LOCK = "/var/tmp/billing.lock"


def run() -> None:
    print("billing", os.getpid())


def main() -> None:
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("the billing run is already under way")
        run()


main()
