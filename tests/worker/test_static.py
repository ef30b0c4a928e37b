"""Static reviews of folders: the summary, the score, the report."""

from pathlib import Path

import orjson
import pytest

from services.worker import configurations, static

WEAK = "import subprocess\n\n\ndef run(text):\n    return subprocess.run(text, shell=True)\n"
BOTH = configurations.read({})


def test_what_both_engines_say_of_a_line_counts_once(tmp_path: Path) -> None:
    (tmp_path / "weak.py").write_text(WEAK)
    (tmp_path / "clean.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("def (:\n")
    review = static.review(tmp_path, BOTH)
    assert review.summary["files"] == 3
    assert review.summary["lines"] == 6
    assert review.summary["verdicts"] == {"weak": 1, "clean": 1}
    assert review.summary["findings_by_rule"] == {"B404": 1, "B602": 1}
    assert review.summary["findings_by_severity"] == {"high": 1, "low": 1}
    assert review.summary["top_findings"][0]["rule"] == "B602"
    assert [error["path"] for error in review.summary["errors"]] == ["broken.py"]
    found = review.code_review
    assert found is not None
    assert (found.issues_count, found.vulnerabilities_count) == (2, 1)
    assert found.code_length == len(WEAK) + len("x = 1\n")
    assert found.overall_score == review.summary["score"] == 0.0
    assert "bandit" in found.model_used
    assert "ruff" in found.model_used
    report = orjson.loads(review.report)
    assert [item["path"] for item in report["findings"]] == ["weak.py", "weak.py"]


def test_the_configuration_decides_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "weak.py").write_text(WEAK)
    quiet = configurations.read(
        {"engines": {"ruff": {"enabled": False}}, "decision": {"ignore_rules": ["B404", "B602"]}}
    )
    review = static.review(tmp_path, quiet)
    assert (review.summary["finding_count"], review.summary["score"]) == (0, 100.0)
    assert review.code_review is not None
    assert "ruff" not in review.code_review.model_used


def test_a_folder_in_which_nothing_can_be_analysed_has_no_score(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (:\n")
    review = static.review(tmp_path, BOTH)
    assert review.code_review is None
    assert "score" not in review.summary


@pytest.mark.parametrize(
    ("severities", "lines", "expected"),
    [
        ([], 10, 100.0),
        (["high"], 1000, 90.0),
        (["medium", "low", "unrated"], 1000, 93.0),
        (["high"], 3, 0.0),
        (["low"], 3, 90.0),
        (["high"] * 50, 1000, 0.0),
        (["medium"], 3000, 98.67),
    ],
)
def test_the_score_weighs_findings_per_thousand_lines(severities: list[str], lines: int, expected: float) -> None:
    assert static.score(severities, lines) == expected
