"""The demo's analyser configurations: what is in production, what challenges it, a later "optimisation".

Each is a choice of whole rules and grades, never of programs; how well it does is measured, not written here.
"""

from typing import Any, Final

# What the team has run for years: bandit alone, and only what it is sure of and finds grave enough.
PRODUCTION: Final[dict[str, Any]] = {
    "engines": {
        "bandit": {
            "enabled": True,
            "tests": "all",
            "skips": [],
            "minimum_severity": "medium",
            "minimum_confidence": "high",
        },
        "ruff": {"enabled": False},
    },
    "decision": {"minimum_findings": 1, "ignore_rules": []},
}

# The challenger: both analysers, every grade, without the rules on mere imports and process starts.
CANDIDATE: Final[dict[str, Any]] = {
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
    "decision": {
        "minimum_findings": 1,
        "ignore_rules": [
            "B401",
            "B402",
            "B403",
            "B404",
            "B405",
            "B406",
            "B407",
            "B408",
            "B409",
            "B411",
            "B412",
            "B413",
            "B415",
            "B603",
            "B606",
            "B607",
            "S603",
            "S606",
            "S607",
        ],
    },
}

# A later idea to make reviews faster: ruff alone, with the families of rules that matter to web handlers.
LATER: Final[dict[str, Any]] = {
    "engines": {
        "bandit": {"enabled": False},
        "ruff": {"enabled": True, "select": ["S1", "S2", "S6", "S7"], "ignore": ["S603", "S606", "S607"]},
    },
    "decision": {"minimum_findings": 1, "ignore_rules": []},
}
