"""Retention classes: how long bodies and personal values of which events are kept, by their action. Pure.

The class follows from the action alone, so that nobody has to trust a mark on the event. Logins and the like are of use
for months; what decides on models, money and production has to be kept for years; the rest is data.
"""

from collections.abc import Mapping

AUTHENTICATION, DATA, COMPLIANCE = "authentication", "data", "compliance"
DAYS: Mapping[str, int] = {AUTHENTICATION: 90, DATA: 365, COMPLIANCE: 7 * 365 + 2}
"""Days that each class is kept, unless the settings say otherwise."""
PREFIXES: Mapping[str, str] = {
    "audit.": COMPLIANCE,
    "auth.": DATA,
    "auth.factor.": AUTHENTICATION,
    "auth.password.": AUTHENTICATION,
    "auth.session.": AUTHENTICATION,
    "auth.tenant.": COMPLIANCE,
    "experiments.": COMPLIANCE,
    "production.": COMPLIANCE,
    "production.task": DATA,
    "projects.": DATA,
    "projects.baseline.": COMPLIANCE,
    "projects.policy.": COMPLIANCE,
    "projects.version.": COMPLIANCE,
    "providers.": DATA,
    "providers.key.": COMPLIANCE,
    "providers.key.resolve": DATA,
    "providers.quota.set": COMPLIANCE,
    "quarantine.": COMPLIANCE,
}
"""The longest prefix that fits decides; what none fits is kept as long as anything."""


def of(action: str) -> str:
    """Give the class of an action."""
    fitting = [prefix for prefix in PREFIXES if action.startswith(prefix)]
    return PREFIXES[max(fitting, key=len)] if fitting else COMPLIANCE
