"""Circuits: a provider that fails again and again is not asked for a while, also when there is no other.

One for each provider and destination, in the memory of each process. Five hard failures in a row open it; then one call
at a time is let through now and then, and the first that succeeds closes it.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from services.kit.db import Row

FAILURES = 5
FIRST_SECONDS, LONGEST_SECONDS = 30.0, 300.0
PROBE_SECONDS = 1.0
"""Between two calls that are let through although everything is open."""
STALE_PROBE_SECONDS = 660.0
"""After which a probe that never came back is forgotten; no call lasts longer."""
MOST = 10_000


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    opened: int = 0
    """How often it opened in a row."""
    retry_at: float = 0.0
    probed_at: float | None = None
    """A call is under way that was let through."""
    last_probe: float = float("-inf")


class Circuits:
    """The circuits of one process."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._circuits: OrderedDict[tuple[str, str, str], _Circuit] = OrderedDict()

    def enter(self, provider: Row, *, last_resort: bool) -> timedelta | None:
        """Let one try through (None), or say how long to wait. Whoever is let through must come back with `leave`.

        The last resort is what is left when everything that may answer is open: it keeps a probe open all the time, so
        that the end of a failure of all is noticed at once.
        """
        circuit = self._circuits.get(_name(provider))
        if circuit is None or circuit.failures < FAILURES:
            return None
        now = self._now()
        if circuit.probed_at is not None and now - circuit.probed_at < STALE_PROBE_SECONDS:
            return timedelta(seconds=PROBE_SECONDS)
        ready = min(circuit.retry_at, circuit.last_probe + PROBE_SECONDS) if last_resort else circuit.retry_at
        if now < ready:
            return timedelta(seconds=ready - now)
        circuit.probed_at = circuit.last_probe = now
        return None

    def is_open(self, provider: Row) -> bool:
        """Say whether only probes are let through."""
        circuit = self._circuits.get(_name(provider))
        return circuit is not None and circuit.failures >= FAILURES

    def leave(self, provider: Row, *, failed: bool | None) -> None:
        """Note what a call came to; None says nothing about the provider."""
        name = _name(provider)
        circuit = self._circuits.get(name)
        if failed is False:
            self._circuits.pop(name, None)
            return
        if circuit is None:
            if not failed:
                return
            circuit = self._circuits[name] = _Circuit()
            while len(self._circuits) > MOST:
                self._circuits.popitem(last=False)
        self._circuits.move_to_end(name)
        circuit.probed_at = None
        if not failed:
            return
        circuit.failures += 1
        if circuit.failures >= FAILURES:
            seconds = min(FIRST_SECONDS * 2**circuit.opened, LONGEST_SECONDS)
            circuit.opened = min(circuit.opened + 1, 8)
            circuit.retry_at = self._now() + seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret


def _name(provider: Row) -> tuple[str, str, str]:
    return str(provider["tenant_id"]), str(provider["id"]), provider["destination_host"]
