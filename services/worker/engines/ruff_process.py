"""ruff's security rules as a child process: one program over its standard input, or many files in one run.

It reads no configuration of the place it runs in and honours no suppression comment. ruff neither grades its
remarks nor names a CWE, so its findings are `unrated`.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ruff  # type: ignore[import-untyped]  # it ships no types

from services.worker.findings import EngineFailed, Finding, SourceRefused

_ONE, _MANY = 10.0, 120.0  # seconds for one program, for one batch
_BATCH = 400  # paths on one command line, far below the system's limit
_UNREADABLE = "invalid-syntax"

Outcome = tuple[Finding, ...] | SourceRefused


@cache
def rules() -> frozenset[str]:
    """Every security rule this ruff runs; a removed or preview rule could be named, but would stay silent."""
    listed = json.loads(_run(["rule", "--all", "--output-format", "json"], timeout=_ONE))
    return frozenset(
        rule["code"] for rule in listed if rule["linter"] == "flake8-bandit" and "Stable" in rule["status"]
    )


def inspect(program: bytes, *, select: Sequence[str], ignore: Sequence[str]) -> tuple[Finding, ...]:
    """Run the selected rules over one program."""
    arguments = [*_check(select, ignore), "--stdin-filename", "program.py", "-"]
    outcome = _outcome(json.loads(_run(arguments, timeout=_ONE, program=program)))
    if isinstance(outcome, SourceRefused):
        raise outcome
    return outcome


def inspect_files(paths: Sequence[Path], *, select: Sequence[str], ignore: Sequence[str]) -> dict[Path, Outcome]:
    """Run the selected rules over many files, a few hundred to a process."""
    said: dict[Path, list[dict[str, Any]]] = {path.resolve(): [] for path in paths}
    for start in range(0, len(paths), _BATCH):
        # Files that are named are analysed, even below folders that ruff would not walk into.
        batch = [str(path.resolve()) for path in paths[start : start + _BATCH]]
        for remark in json.loads(_run([*_check(select, ignore), "--", *batch], timeout=_MANY)):
            said[Path(remark["filename"])].append(remark)
    return {path: _outcome(said[path.resolve()]) for path in paths}


def _check(select: Sequence[str], ignore: Sequence[str]) -> list[str]:
    # Both engines read the Python this process runs on; otherwise they would disagree about what is valid.
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    chosen = ["--select", ",".join(select)] + (["--ignore", ",".join(ignore)] if ignore else [])
    isolated = ["--isolated", "--no-cache", "--no-fix", "--ignore-noqa", "--target-version", version]
    return ["check", *isolated, *chosen, "--output-format", "json"]


def _run(arguments: list[str], *, timeout: float, program: bytes | None = None) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603 - our own binary, no shell, arguments from a validated configuration
            [ruff.find_ruff_bin(), *arguments],
            input=b"" if program is None else program,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineFailed("ruff", f"no answer within {timeout:g} seconds") from error
    except OSError as error:
        raise EngineFailed("ruff", f"the program could not be started: {error}") from error
    complaint = done.stderr.decode(errors="replace").strip()
    if done.returncode not in (0, 1) or "Failed to lint" in complaint:
        raise EngineFailed("ruff", f"exit code {done.returncode}: {complaint or 'no explanation'}")
    return done.stdout


def _outcome(remarks: list[dict[str, Any]]) -> Outcome:
    for remark in remarks:
        if remark["code"] == _UNREADABLE:
            line = remark["location"]["row"]
            return SourceRefused(f"the program is not valid Python: line {line}: {remark['message']}")
    return tuple(_finding(remark) for remark in remarks)


def _finding(remark: dict[str, Any]) -> Finding:
    return Finding(
        engine="ruff",
        rule=remark["code"],
        severity="unrated",
        confidence="unrated",
        line=remark["location"]["row"],
        message=remark["message"],
        cwe=None,
    )
