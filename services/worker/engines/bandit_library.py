"""bandit inside this process, on one program at a time.

bandit keeps its active rules in module-wide state, so runs are serialised by a lock. Its own driver turns a
broken rule into a log line and goes on; here a broken rule is `EngineFailed`. Suppression comments are not
honoured: the program under review does not get to silence its reviewer.
"""

import io
import logging
import threading
import warnings
from functools import cache
from typing import Any, Never

from services.worker.findings import EngineFailed, Finding, Severity, SourceRefused

_format = warnings.formatwarning
with warnings.catch_warnings():
    # It calls its plugin loader in a deprecated way, and replaces the process's warning format by its own.
    warnings.simplefilter("ignore", DeprecationWarning)
    from bandit.core import config, extension_loader, meta_ast, metrics, node_visitor, test_set, tester
warnings.formatwarning = _format

_NAME = "./program.py"  # bandit wants a path with a folder; nothing is opened under it
_LOCK = threading.Lock()
_GRADES: dict[str, Severity] = {"LOW": "low", "MEDIUM": "medium", "HIGH": "high", "UNDEFINED": "unrated"}

# bandit narrates on its loggers; what matters of it arrives here as findings and errors.
logging.getLogger("bandit").addHandler(logging.NullHandler())
logging.getLogger("bandit").propagate = False


class _Tester(tester.BanditTester):  # type: ignore[misc]  # bandit has no types
    @staticmethod
    def report_error(test: str, _context: Any, error: Exception) -> Never:
        raise EngineFailed("bandit", f"its rule `{test}` broke on this program: {error!r}") from error


@cache
def rules() -> frozenset[str]:
    """Every rule this bandit knows."""
    known = extension_loader.MANAGER
    return frozenset(known.plugins_by_id) | frozenset(known.blacklist_by_id)


def inspect(program: bytes, *, tests: frozenset[str], skips: frozenset[str]) -> tuple[Finding, ...]:
    """Run the rules `tests` without `skips` (no tests means all) over one program."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old escape in the program is no warning of ours
        active = test_set.BanditTestSet(config.BanditConfig(), {"include": tests, "exclude": skips})
        counters = metrics.Metrics()
        visitor = node_visitor.BanditNodeVisitor(
            _NAME, io.BytesIO(program), meta_ast.BanditMetaAst(), active, False, {}, counters
        )
        visitor.tester = _Tester(active, False, {}, counters)
        try:
            visitor.process(program)
        except SyntaxError as error:
            raise SourceRefused(f"the program is not valid Python: line {error.lineno}: {error.msg}") from error
        except (RecursionError, MemoryError) as error:
            raise SourceRefused("the program nests too deeply to be parsed") from error
    return tuple(_finding(issue) for issue in visitor.tester.results)


def _finding(issue: Any) -> Finding:
    return Finding(
        engine="bandit",
        rule=issue.test_id,
        severity=_GRADES[issue.severity],
        confidence=_GRADES[issue.confidence],
        line=issue.lineno,
        message=issue.text,
        cwe=issue.cwe.id or None,
    )
