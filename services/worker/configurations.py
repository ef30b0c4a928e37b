"""Analyser configurations: plain JSON documents with a closed schema, read into frozen records.

A document that says something unknown, or names a rule its analyser does not have, is refused by the name of
its field; nothing is guessed. What a document leaves out takes the value in `DEFAULTS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from services.worker.engines import bandit_library, ruff_process
from services.worker.findings import Severity

GRADES: Final = ("low", "medium", "high")
DEFAULTS: Final[Mapping[str, Any]] = {
    "engines": {
        "bandit": {
            "enabled": True,
            "tests": "all",
            "skips": [],
            "minimum_severity": "low",
            "minimum_confidence": "low",
        },
        "ruff": {"enabled": True, "select": ["S"], "ignore": []},
    },
    "decision": {"minimum_findings": 1, "ignore_rules": []},
}


class ConfigurationInvalid(ValueError):
    """A field of the document is wrong; the text begins with its full name."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Bandit:
    """What bandit runs and from which grade on a finding counts; no tests means all of them."""

    enabled: bool
    tests: frozenset[str]
    skips: frozenset[str]
    minimum_severity: Severity
    minimum_confidence: Severity


@dataclass(frozen=True, slots=True)
class Ruff:
    """Which of ruff's security rules run, by code or by the beginning of a code."""

    enabled: bool
    select: tuple[str, ...]
    ignore: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Configuration:
    """One analyser configuration: the engines, and how many findings make a program weak."""

    bandit: Bandit
    ruff: Ruff
    minimum_findings: int
    ignore_rules: frozenset[str]


def read(document: object) -> Configuration:
    """Read and check a document."""
    top = _section("configuration", document, DEFAULTS)
    engines = _section("engines", top["engines"], DEFAULTS["engines"])
    decision = _section("decision", top["decision"], DEFAULTS["decision"])
    bandit, ruff = _bandit(engines["bandit"]), _ruff(engines["ruff"])
    if not (bandit.enabled or ruff.enabled):
        _refuse("engines", "enable at least one of bandit and ruff")
    minimum = decision["minimum_findings"]
    if type(minimum) is not int or minimum < 1:
        _refuse("decision.minimum_findings", f"must be a whole number of at least 1, not {minimum!r}")
    known = bandit_library.rules() | ruff_process.rules()
    ignored = _rules("decision.ignore_rules", decision["ignore_rules"], known.__contains__)
    return Configuration(bandit, ruff, minimum, frozenset(ignored))


def _bandit(document: object) -> Bandit:
    name = "engines.bandit"
    fields = _section(name, document, DEFAULTS["engines"]["bandit"])
    known = bandit_library.rules().__contains__
    tests = () if fields["tests"] == "all" else _rules(f"{name}.tests", fields["tests"], known, least=1)
    skips = _rules(f"{name}.skips", fields["skips"], known)
    if both := sorted(set(tests) & set(skips)):
        _refuse(f"{name}.skips", f"{both} are also listed in tests; name a rule in one of them")
    return Bandit(
        _boolean(f"{name}.enabled", fields["enabled"]),
        frozenset(tests),
        frozenset(skips),
        _grade(f"{name}.minimum_severity", fields["minimum_severity"]),
        _grade(f"{name}.minimum_confidence", fields["minimum_confidence"]),
    )


def _ruff(document: object) -> Ruff:
    name = "engines.ruff"
    fields = _section(name, document, DEFAULTS["engines"]["ruff"])
    return Ruff(
        _boolean(f"{name}.enabled", fields["enabled"]),
        _rules(f"{name}.select", fields["select"], _begins_a_rule, least=1),
        _rules(f"{name}.ignore", fields["ignore"], _begins_a_rule),
    )


def _begins_a_rule(code: str) -> bool:
    return code != "" and any(rule.startswith(code) for rule in ruff_process.rules())


def _section(name: str, document: object, defaults: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        _refuse(name, f"must be an object, not {document!r}")
    prefix = "" if name == "configuration" else f"{name}."
    for key in document:
        if key not in defaults:
            _refuse(f"{prefix}{key}", f"is not known; {name} has {', '.join(sorted(defaults))}")
    return {**defaults, **document}


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(name, f"must be true or false, not {value!r}")
    return value


def _grade(name: str, value: object) -> Severity:
    if value not in GRADES:
        _refuse(name, f"must be one of {', '.join(GRADES)}, not {value!r}")
    return value


def _rules(name: str, value: object, known: Callable[[str], bool], *, least: int = 0) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(rule, str) for rule in value):
        _refuse(name, f"must be a list of rule names, not {value!r}")
    if len(value) < least:
        _refuse(name, "must name at least one rule; set `enabled` to false to switch the engine off")
    for position, rule in enumerate(value):
        if not known(rule):
            _refuse(f"{name}[{position}]", f"the installed analyser has no rule {rule!r}")
        if rule in value[:position]:
            _refuse(f"{name}[{position}]", f"{rule!r} is listed twice")
    return tuple(value)


def _refuse(field: str, problem: str) -> NoReturn:
    raise ConfigurationInvalid(field, problem)
