"""Analyses by the real analysers: findings, verdicts, refusals and failures."""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.worker import analysers, configurations
from services.worker.analysers import Analysis, Verdict
from services.worker.engines import bandit_library, ruff_process
from services.worker.findings import LIMIT, EngineFailed, SourceRefused

SHELL = "import subprocess\n\n\ndef run(text):\n    return subprocess.run(text, shell=True)\n"
CLEAN = "def add(left, right):\n    return left + right\n"
# bandit 1.9 looks for a name where none is given, and its own rule breaks.
BREAKS_BANDIT = "import importlib\n\nimportlib.import_module(**options)\n"


def configure(
    *, bandit: Mapping[str, Any] | bool = True, ruff: bool = True, **decision: Any
) -> configurations.Configuration:
    settings = {"enabled": bandit} if isinstance(bandit, bool) else bandit
    return configurations.read({"engines": {"bandit": settings, "ruff": {"enabled": ruff}}, "decision": decision})


def rules(analysis: analysers.Outcome) -> list[str]:
    assert isinstance(analysis, Analysis)
    return [finding.rule for finding in analysis.findings]


def test_both_engines_report_in_their_own_words() -> None:
    analysis = analysers.analyse(SHELL, configure())
    assert analysis.verdict == "weak"
    assert rules(analysis) == ["B404", "B602", "S602"]
    bandit, ruff = analysis.findings[1:]
    assert (bandit.engine, bandit.severity, bandit.confidence, bandit.line, bandit.cwe) == (
        "bandit",
        "high",
        "high",
        5,
        78,
    )
    assert (ruff.engine, ruff.severity, ruff.confidence, ruff.line, ruff.cwe) == (
        "ruff",
        "unrated",
        "unrated",
        5,
        None,
    )
    assert "shell" in bandit.message
    assert "shell" in ruff.message
    assert analysis.duration_ms > 0


def test_a_harmless_program_is_clean() -> None:
    analysis = analysers.analyse(CLEAN, configure())
    assert (analysis.verdict, analysis.findings) == ("clean", ())


@pytest.mark.parametrize(
    ("bandit", "expected"),
    [
        ({"minimum_severity": "medium"}, ["B602"]),
        ({"tests": ["B404"]}, ["B404"]),
        ({"skips": ["B602"]}, ["B404"]),
        ({"tests": ["B404"], "minimum_severity": "high"}, []),
    ],
)
def test_bandit_runs_what_it_is_told(bandit: Mapping[str, Any], expected: list[str]) -> None:
    assert rules(analysers.analyse(SHELL, configure(bandit=bandit, ruff=False))) == expected


def test_a_rule_below_the_confidence_does_not_count() -> None:
    program = "import requests\n\nrequests.get('https://example.com')\n"
    low = configure(bandit={"tests": ["B113"]}, ruff=False)
    high = configure(bandit={"tests": ["B113"], "minimum_confidence": "medium"}, ruff=False)
    assert rules(analysers.analyse(program, low)) == ["B113"]
    assert analysers.analyse(program, high).verdict == "clean"


def test_ruff_selects_and_ignores_by_the_beginning_of_a_code() -> None:
    program = SHELL + "\n\nassert run\n"
    document = {"engines": {"bandit": {"enabled": False}, "ruff": {"select": ["S1", "S6"], "ignore": ["S10"]}}}
    assert rules(analysers.analyse(program, configurations.read(document))) == ["S602"]


@pytest.mark.parametrize(("minimum", "verdict"), [(1, "weak"), (2, "weak"), (3, "clean")])
def test_enough_findings_make_a_program_weak(minimum: int, verdict: Verdict) -> None:
    configuration = configure(minimum_findings=minimum, ignore_rules=["B404"])
    assert analysers.analyse(SHELL, configuration).verdict == verdict


def test_ignored_rules_neither_count_nor_appear() -> None:
    configuration = configure(ignore_rules=["B404", "B602", "S602"])
    analysis = analysers.analyse(SHELL, configuration)
    assert (analysis.verdict, analysis.findings) == ("clean", ())


@pytest.mark.parametrize("comment", ["# nosec", "# nosec B602", "# noqa", "# noqa: S602"])
def test_a_program_cannot_silence_its_reviewer(comment: str) -> None:
    program = SHELL.replace("shell=True)", f"shell=True)  {comment}")
    assert rules(analysers.analyse(program, configure())) == ["B404", "B602", "S602"]


@pytest.mark.parametrize("engines", [{"bandit": True, "ruff": False}, {"bandit": False, "ruff": True}])
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def broken(:\n", "not valid Python: line 1"),
        ("x = 'a\0b'\n", "null byte"),
        ("x = '\udc80'\n", "not valid Unicode"),
        ("#" * (LIMIT + 1), "at most"),
    ],
)
def test_an_unreadable_program_is_refused(engines: dict[str, bool], program: str, reason: str) -> None:
    with pytest.raises(SourceRefused, match=reason):
        analysers.analyse(program, configure(bandit=engines["bandit"], ruff=engines["ruff"]))


def test_a_program_that_nests_too_deeply_is_refused() -> None:
    with pytest.raises(SourceRefused, match="nests too deeply"):
        analysers.analyse("x = " + "-" * 50_000 + "1\n", configure(ruff=False))


def test_a_broken_rule_is_a_failure_and_not_a_clean_verdict() -> None:
    with pytest.raises(EngineFailed, match="bandit failed: its rule `blacklist` broke") as caught:
        analysers.analyse(BREAKS_BANDIT, configure())
    assert caught.value.engine == "bandit"
    assert isinstance(caught.value.__cause__, KeyError)


def test_bandit_works_on_after_a_failure() -> None:
    with pytest.raises(EngineFailed):
        analysers.analyse(BREAKS_BANDIT, configure())
    assert analysers.analyse(SHELL, configure()).verdict == "weak"


def test_a_refusal_of_ruff_itself_is_a_failure() -> None:
    with pytest.raises(EngineFailed, match=r"ruff failed: exit code 2: .*\n?.*S999"):
        ruff_process.inspect(b"", select=["S999"], ignore=[])


def test_a_file_that_ruff_cannot_open_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="Failed to lint"):
        ruff_process.inspect_files([tmp_path / "absent.py"], select=["S"], ignore=[])


def test_a_ruff_that_does_not_answer_is_a_failure() -> None:
    with pytest.raises(EngineFailed, match="no answer within"):
        ruff_process._run(["rule", "--all"], timeout=-1.0)


def test_threads_with_different_rules_do_not_disturb_each_other() -> None:
    wanted = [frozenset({"B404"}), frozenset({"B602"}), frozenset({"B404", "B602"}), frozenset({"B101"})] * 25

    def run(tests: frozenset[str]) -> frozenset[str]:
        found = bandit_library.inspect(SHELL.encode(), tests=tests, skips=frozenset())
        return frozenset(finding.rule for finding in found)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(run, wanted)) == [tests - {"B101"} for tests in wanted]


def test_analysing_is_silent(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        analysers.analyse("import re\n\nre.match('\\d', text)  # nosec B999\n", configure())
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("bandit")] == []


def tree(folder: Path) -> None:
    package = folder / ".venv" / "site-packages" / "shop"
    package.mkdir(parents=True)
    (folder / "clean.py").write_text(CLEAN)
    (package / "shell.py").write_text(SHELL)
    (folder / "broken.py").write_text("def broken(:\n")
    (folder / "odd.py").write_text(BREAKS_BANDIT)
    (folder / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nname = '\xe9'\n")
    (folder / "large.py").write_text("#" * (LIMIT + 1))
    (folder / "notes.txt").write_text(SHELL)
    (folder / "link.py").symlink_to(package / "shell.py")


def test_a_tree_gives_an_outcome_for_every_file(tmp_path: Path) -> None:
    tree(tmp_path)
    outcomes = dict(analysers.analyse_tree(tmp_path, configure()))
    assert list(outcomes) == [
        ".venv/site-packages/shop/shell.py",
        "broken.py",
        "clean.py",
        "large.py",
        "latin.py",
        "odd.py",
    ]
    assert rules(outcomes[".venv/site-packages/shop/shell.py"]) == ["B404", "B602", "S602"]
    assert rules(outcomes["clean.py"]) == []
    assert isinstance(outcomes["odd.py"], EngineFailed)
    refusals = {name: str(outcomes[name]) for name in ("broken.py", "large.py", "latin.py")}
    assert all(isinstance(outcomes[name], SourceRefused) for name in refusals)
    assert "not valid Python" in refusals["broken.py"]
    assert "at most" in refusals["large.py"]
    assert "not UTF-8" in refusals["latin.py"]


@pytest.mark.parametrize("engines", [{"bandit": True, "ruff": False}, {"bandit": False, "ruff": True}])
def test_a_tree_and_its_programs_one_by_one_agree(tmp_path: Path, engines: dict[str, bool]) -> None:
    (tmp_path / "shell.py").write_text(SHELL)
    (tmp_path / "clean.py").write_text(CLEAN)
    configuration = configure(bandit=engines["bandit"], ruff=engines["ruff"])
    for name, outcome in analysers.analyse_tree(tmp_path, configuration):
        assert isinstance(outcome, Analysis)
        alone = analysers.analyse((tmp_path / name).read_text(), configuration)
        assert (outcome.verdict, outcome.findings) == (alone.verdict, alone.findings)


def test_an_empty_folder_has_no_outcomes(tmp_path: Path) -> None:
    assert list(analysers.analyse_tree(tmp_path, configure())) == []
