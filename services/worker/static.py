"""Static tasks: a folder of Python under the analysers that the configuration names, and what came of it.

Score = 100 - 1000 * W / L, at least 0, with two digits. W adds up the weights of the distinct findings (high 10,
medium 4, unrated 2, low 1); L is the number of lines that were analysed, at least 100. What both engines say of one
line by the same rule (B602, S602) is one finding. A folder in which nothing could be analysed has no score: no data is
no pass.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import orjson

from services.worker.analysers import Analysis, Outcome, analyse_tree
from services.worker.configurations import Configuration
from services.worker.findings import Finding
from triptych.production.v1.code_review_pb2 import CodeLanguage, CodeReview

WEIGHTS: Final = {"high": 10, "medium": 4, "unrated": 2, "low": 1}
LEAST_LINES = 100
SHOWN = 50


@dataclass(frozen=True, slots=True)
class Review:
    """What came of a folder."""

    summary: dict[str, Any]
    report: bytes
    """All findings and errors, as JSON."""
    code_review: CodeReview | None
    """Without its analysis; None when nothing could be analysed."""


@dataclass(frozen=True, slots=True)
class Located:
    """A finding and the file that it is in."""

    path: str
    finding: Finding

    def plain(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        finding = self.finding
        return {
            "path": self.path,
            "line": finding.line,
            "engine": finding.engine,
            "rule": finding.rule,
            "severity": finding.severity,
            "cwe": finding.cwe,
            "message": finding.message,
        }


def review(folder: Path, configuration: Configuration) -> Review:
    """Analyse a folder."""
    begun = time.perf_counter()
    outcomes = list(analyse_tree(folder, configuration))
    analysed = [path for path, outcome in outcomes if isinstance(outcome, Analysis)]
    lines, characters = _measure(folder, analysed)
    findings = _distinct(outcomes)
    errors = [
        {"path": path, "problem": str(outcome)[:500]} for path, outcome in outcomes if not isinstance(outcome, Analysis)
    ]
    summary = _summary(findings, outcomes, lines) | {"error_count": len(errors), "errors": errors[:SHOWN]}
    if not analysed:
        return Review(summary, _report(findings, errors), None)
    code_review = CodeReview(
        language=CodeLanguage.CODE_LANGUAGE_PYTHON,
        code_length=characters,
        overall_score=score((item.finding.severity for item in findings), lines),
        vulnerabilities_count=sum(item.finding.severity != "low" for item in findings),
        issues_count=len(findings),
        model_used=_engines(configuration),
        analysis_time_ms=int((time.perf_counter() - begun) * 1000),
    )
    return Review(summary | {"score": code_review.overall_score}, _report(findings, errors), code_review)


def score(severities: Iterable[str], lines: int) -> float:
    """Give the score of this many lines with these findings."""
    weight = sum(WEIGHTS[severity] for severity in severities)
    return round(max(0.0, 100 - 1000 * weight / max(lines, LEAST_LINES)), 2)


def _distinct(outcomes: Iterable[tuple[str, Outcome]]) -> list[Located]:
    """Give the findings, gravest first; of what both engines say, bandit's, which is graded and comes first."""
    found: dict[tuple[str, int, str], Located] = {}
    for path, outcome in outcomes:
        for finding in outcome.findings if isinstance(outcome, Analysis) else ():
            found.setdefault((path, finding.line, finding.rule[1:]), Located(path, finding))
    return sorted(found.values(), key=lambda item: -WEIGHTS[item.finding.severity])


def _summary(findings: list[Located], outcomes: list[tuple[str, Outcome]], lines: int) -> dict[str, Any]:
    verdicts = Counter(outcome.verdict for _, outcome in outcomes if isinstance(outcome, Analysis))
    return {
        "files": len(outcomes),
        "lines": lines,
        "verdicts": {verdict: verdicts[verdict] for verdict in ("weak", "clean")},
        "finding_count": len(findings),
        "findings_by_rule": dict(sorted(Counter(item.finding.rule for item in findings).items())),
        "findings_by_severity": dict(sorted(Counter(item.finding.severity for item in findings).items())),
        "top_findings": [item.plain() for item in findings[:SHOWN]],
    }


def _report(findings: list[Located], errors: list[dict[str, str]]) -> bytes:
    return orjson.dumps({"findings": [item.plain() for item in findings], "errors": errors})


def _measure(folder: Path, paths: Iterable[str]) -> tuple[int, int]:
    texts = [(folder / path).read_text(encoding="utf-8") for path in paths]
    return sum(len(text.splitlines()) for text in texts), sum(len(text) for text in texts)


def _engines(configuration: Configuration) -> str:
    enabled = {"bandit": configuration.bandit.enabled, "ruff": configuration.ruff.enabled}
    return ", ".join(f"{name} {version(name)}" for name, on in enabled.items() if on)
