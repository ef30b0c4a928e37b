"""Reading analyser configurations: defaults, the closed schema, and errors that name their field."""

import copy
import json
from typing import Any

import pytest

from services.cli.demo import configurations as demo
from services.worker import configurations
from services.worker.configurations import DEFAULTS, ConfigurationInvalid


def test_an_empty_document_means_the_written_defaults() -> None:
    assert configurations.read({}) == configurations.read(copy.deepcopy(dict(DEFAULTS)))


def test_what_a_document_leaves_out_is_filled_in_at_each_level() -> None:
    read = configurations.read({"engines": {"ruff": {"ignore": ["S101"]}}})
    assert read.ruff.select == ("S",)
    assert read.ruff.ignore == ("S101",)
    assert read.bandit.enabled
    assert read.minimum_findings == 1


def test_tests_may_be_all_or_a_list() -> None:
    assert configurations.read({"engines": {"bandit": {"tests": "all"}}}).bandit.tests == frozenset()
    chosen = configurations.read({"engines": {"bandit": {"tests": ["B602", "B301"]}}}).bandit.tests
    assert chosen == {"B301", "B602"}


@pytest.mark.parametrize("document", [demo.PRODUCTION, demo.CANDIDATE, demo.LATER])
def test_the_demo_configurations_survive_json(document: dict[str, Any]) -> None:
    assert configurations.read(json.loads(json.dumps(document))) == configurations.read(document)


WRONG: list[tuple[object, str]] = [
    ([], "configuration"),
    ({"engine": {}}, "engine"),
    ({"engines": []}, "engines"),
    ({"engines": {"pylint": {}}}, "engines.pylint"),
    ({"engines": {"bandit": True}}, "engines.bandit"),
    ({"engines": {"bandit": {"severity": "low"}}}, "engines.bandit.severity"),
    ({"engines": {"bandit": {"enabled": 1}}}, "engines.bandit.enabled"),
    ({"engines": {"bandit": {"tests": []}}}, "engines.bandit.tests"),
    ({"engines": {"bandit": {"tests": "some"}}}, "engines.bandit.tests"),
    ({"engines": {"bandit": {"tests": ["B602", "B999"]}}}, "engines.bandit.tests[1]"),
    ({"engines": {"bandit": {"skips": ["B101", "B101"]}}}, "engines.bandit.skips[1]"),
    ({"engines": {"bandit": {"tests": ["B101"], "skips": ["B101"]}}}, "engines.bandit.skips"),
    ({"engines": {"bandit": {"minimum_severity": "HIGH"}}}, "engines.bandit.minimum_severity"),
    ({"engines": {"bandit": {"minimum_confidence": 2}}}, "engines.bandit.minimum_confidence"),
    ({"engines": {"ruff": {"enabled": None}}}, "engines.ruff.enabled"),
    ({"engines": {"ruff": {"select": []}}}, "engines.ruff.select"),
    ({"engines": {"ruff": {"select": "S"}}}, "engines.ruff.select"),
    ({"engines": {"ruff": {"select": ["S1", "E501"]}}}, "engines.ruff.select[1]"),
    ({"engines": {"ruff": {"select": [""]}}}, "engines.ruff.select[0]"),
    ({"engines": {"ruff": {"select": ["S4"]}}}, "engines.ruff.select[0]"),  # preview rules only: all silent
    ({"engines": {"ruff": {"ignore": [101]}}}, "engines.ruff.ignore"),
    ({"engines": {"bandit": {"enabled": False}, "ruff": {"enabled": False}}}, "engines"),
    ({"decision": None}, "decision"),
    ({"decision": {"threshold": 1}}, "decision.threshold"),
    ({"decision": {"minimum_findings": 0}}, "decision.minimum_findings"),
    ({"decision": {"minimum_findings": True}}, "decision.minimum_findings"),
    ({"decision": {"minimum_findings": 1.0}}, "decision.minimum_findings"),
    ({"decision": {"ignore_rules": ["B101", "X1"]}}, "decision.ignore_rules[1]"),
]


@pytest.mark.parametrize(("document", "field"), WRONG, ids=[f"{n}-{field}" for n, (_, field) in enumerate(WRONG)])
def test_a_wrong_field_names_itself(document: object, field: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        configurations.read(document)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
