"""Scopes: the permissions that agents can be given, as the contracts of all services name them.

`scopes.txt` is made from the protos (`make protos`), so that this service need not load the contracts of all others.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from services.kit import faults

KNOWN = frozenset((Path(__file__).parent / "scopes.txt").read_text().split())
"""Each is the permission of at least one method that agents may call."""


class ScopeUnknown(faults.InvalidArgument):
    """No method has this permission for agents, or the agent or credential has not got it."""


def check(scopes: Sequence[str], among: Iterable[str] = KNOWN) -> list[str]:
    """Give the scopes in order, or name the first that is not among those."""
    allowed = frozenset(among)
    for scope in scopes:
        if scope not in allowed:
            nobodys = "no method has this permission for agents" if scope not in KNOWN else "it is not given here"
            raise ScopeUnknown(f"{scope}: {nobodys}; take of: {', '.join(sorted(allowed)) or 'none'}", scope=scope)
    return sorted(scopes)
