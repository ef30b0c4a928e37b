"""Runs an analyser configuration over a program or a folder of programs and gives the verdict.

The verdict follows the configuration and the findings alone. A program that could not be analysed gets none:
`analyse` raises `SourceRefused` or `EngineFailed`; `analyse_tree` hands them out in the analysis's place.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.worker.configurations import GRADES, Bandit, Configuration
from services.worker.engines import bandit_library, ruff_process
from services.worker.findings import EngineFailed, Finding, SourceRefused, accept

Verdict = Literal["weak", "clean"]
_GROUP = 400  # files that share one ruff process and are handed out together


@dataclass(frozen=True, slots=True)
class Analysis:
    """The verdict on one program, the findings that count towards it, and what it took."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    duration_ms: float


Outcome = Analysis | SourceRefused | EngineFailed


def analyse(source: str, configuration: Configuration) -> Analysis:
    """Analyse one program."""
    begun = time.perf_counter()
    program = accept(source)
    findings = _bandit(program, configuration.bandit)
    if configuration.ruff.enabled:
        ruff = configuration.ruff
        findings += ruff_process.inspect(program, select=ruff.select, ignore=ruff.ignore)
    return _judge(findings, configuration, (time.perf_counter() - begun) * 1000)


def analyse_tree(folder: Path, configuration: Configuration) -> Iterator[tuple[str, Outcome]]:
    """Analyse every Python file below a folder, in the order of their paths.

    A file's duration is its own time in bandit plus its share of the ruff run of its group. Links are not
    followed; a file above the size limit comes back as refused. A ruff run that fails ends the walk.
    """
    files = sorted(path for path in folder.rglob("*.py") if path.is_file() and not path.is_symlink())
    for start in range(0, len(files), _GROUP):
        for path, outcome in _group(files[start : start + _GROUP], configuration):
            yield path.relative_to(folder).as_posix(), outcome


def _group(files: list[Path], configuration: Configuration) -> Iterator[tuple[Path, Outcome]]:
    programs = {path: _load(path) for path in files}
    readable = [path for path, program in programs.items() if isinstance(program, bytes)]
    begun = time.perf_counter()
    said = _ruff_files(readable, configuration)
    share = (time.perf_counter() - begun) / max(len(readable), 1)
    for path, program in programs.items():
        if isinstance(program, SourceRefused):
            yield path, program
        else:
            yield path, _combine(program, said[path], configuration, share)


def _combine(program: bytes, said: ruff_process.Outcome, configuration: Configuration, share: float) -> Outcome:
    if isinstance(said, SourceRefused):
        return said
    begun = time.perf_counter()
    try:
        findings = _bandit(program, configuration.bandit) + said
    except (SourceRefused, EngineFailed) as problem:
        return problem
    return _judge(findings, configuration, (time.perf_counter() - begun + share) * 1000)


def _ruff_files(paths: list[Path], configuration: Configuration) -> dict[Path, ruff_process.Outcome]:
    if not configuration.ruff.enabled or not paths:
        return defaultdict(tuple)
    ruff = configuration.ruff
    return ruff_process.inspect_files(paths, select=ruff.select, ignore=ruff.ignore)


def _load(path: Path) -> bytes | SourceRefused:
    try:
        return accept(path.read_bytes().decode())
    except UnicodeDecodeError:
        return SourceRefused("the program is not UTF-8 text")
    except SourceRefused as refusal:
        return refusal


def _bandit(program: bytes, settings: Bandit) -> tuple[Finding, ...]:
    if not settings.enabled:
        return ()
    return tuple(
        finding
        for finding in bandit_library.inspect(program, tests=settings.tests, skips=settings.skips)
        if _reaches(finding.severity, settings.minimum_severity)
        and _reaches(finding.confidence, settings.minimum_confidence)
    )


def _reaches(grade: str, minimum: str) -> bool:
    # What bandit leaves unrated is kept: a gate may be too strict, never too lax by accident.
    return grade == "unrated" or GRADES.index(grade) >= GRADES.index(minimum)


def _judge(findings: Iterable[Finding], configuration: Configuration, duration_ms: float) -> Analysis:
    counted = tuple(finding for finding in findings if finding.rule not in configuration.ignore_rules)
    verdict: Verdict = "weak" if len(counted) >= configuration.minimum_findings else "clean"
    return Analysis(verdict, counted, duration_ms)
