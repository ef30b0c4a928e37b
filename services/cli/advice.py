"""What to do about a refusal, in terms of commands. What the service said stays as it said it."""

import re
from datetime import timedelta
from typing import Any, Final

import grpc

from services.kit import faults
from services.kit.words import Words
from triptych.common.v1.role_pb2 import Role

_OTHERS: Final = ("Socket closed", "reset by peer")
"""What gRPC says when something listens that is not spoken to as it wants, such as a TLS port."""
_AMOUNT: Final = "an amount in USD has up to 8 digits and 12 decimals: 99999999.5"
_PATTERN: Final = re.compile(r"does not match regex pattern `[^`]*`")
_INDEX: Final = re.compile(r"\[\d+\]")
_METHOD: Final = re.compile(r"\b(?:[A-Z][a-z]+){2,}\b")
_METHODS: Final = "may not call this method"
_CHANGED: Final = "; `triptych whoami` shows your role, an admin can change it with `triptych members set`"
START: Final = "start its stack with `triptych up`"
INSTALLATION: Final = (
    ": it is of the installation, not of a tenant; its operator invites with `triptych bootstrap-admin --installation`"
)
COMMANDS: Final = {
    "REAUTHENTICATION_REQUIRED": "`triptych reauthenticate`, and then the same command again",
    "PROVIDER_NOT_FOUND": "`triptych providers list` shows those that there are",
    "PROVIDER_NAME_TAKEN": "`triptych providers list --archived` shows those that are taken",
    "PROVIDER_INACTIVE": "an admin switches it on with `triptych providers update NAME --active`",
    "PROVIDER_ARCHIVED": "`triptych providers list` shows those that can be used",
    "PROVIDER_HOST_IN_USE": "`triptych providers create` adds another one; or have its keys revoked first",
    "ENDPOINT_REFUSED": (
        "give --endpoint https://HOST/…; http is for a server on this machine in development: http://127.0.0.1:PORT"
    ),
    "KEY_NOT_FOUND": "`triptych keys list` shows yours, `triptych keys store PROVIDER` stores one",
    "KEY_REJECTED_BY_PROVIDER": "look at the key at the provider, and give it again",
    "PROVIDER_TAKES_NO_KEY": "`triptych models invoke` works without one",
    "PROVIDER_UNREACHABLE": "`triptych providers health` shows how it does; `triptych providers show` where it is",
    "KEY_EXISTS": "`triptych keys list` shows it; `triptych keys rotate` puts a new value in its place",
    "KEY_LIMIT": "`triptych keys list`, then `triptych keys revoke` one that is not needed",
    "KEY_NOT_CURRENT": "`triptych keys list` shows those that can be used",
    "KEY_REFUSED": "`triptych keys validate` asks the provider anew, `triptych keys rotate` replaces it",
    "QUOTA_NOT_FOUND": "only admins see what others may use; `triptych budgets show` shows what you may",
    "QUOTA_EXCEEDED": (
        "`triptych budgets show` says where you stand, an admin sets limits with `triptych budgets set` "
        "(--tenant: for all); with --max-tokens a call holds less"
    ),
    "AI_DISABLED": "an admin switches it on with `triptych budgets set --tenant --ai`",
    "PROVIDER_NOT_ALLOWED": "an admin sees with `triptych budgets show --tenant` who may; `budgets allow` sets it",
    "MODEL_UNAVAILABLE": "`triptych providers health` shows how it does; --fallback names others that may answer",
    "CIRCUIT_OPEN": "`triptych providers health` shows how it does; --fallback names others that may answer",
    "PROVIDER_BUSY": "--fallback names others that may answer",
    "SCOPE_UNKNOWN": "`triptych agents scopes` lists them",
    "COST_ALERT_NOT_FOUND": "`triptych budgets alerts` shows them",
    "ETAG_MISMATCH": "somebody else was faster: the same command again begins with what is there now",
}
"""What helps against each reason."""
FORMS: Final = {
    "provider.name": "a name has 2 to 63 letters in lower case, digits and dashes: house-2",
    "provider_id": "`triptych providers list` shows the ids",
    "input_cost_usd_per_1k": "prices are decimals, in USD for 1,000 tokens: 0.003",
    "output_cost_usd_per_1k": "prices are decimals, in USD for 1,000 tokens: 0.003",
    "operation": "an operation is in lower case, with digits and underscores: code_review",
    "cost_alert_id": "`triptych budgets alerts` shows the ids",
    "key_id": "`triptych keys list` shows the ids",
    "label": "a label has 1 to 64 characters",
    "expire_time": "--expires must be in the future",
    "daily_cost_usd": _AMOUNT,
    "monthly_cost_usd": _AMOUNT,
    "scopes": "a scope is written like agents.get: `triptych agents scopes` lists them",
    "agent_id": "`triptych agents list` shows names and ids",
    "credential_id": "`triptych agents credentials AGENT` shows the ids",
    "invitation_id": "`triptych invitations list` shows the ids",
    "session_id": "`triptych sessions list` shows the ids",
    "user_id": "`triptych users list` shows addresses and ids",
}
"""What a field must look like, in words; by its name, or by its path where the name is not enough."""
PATTERNS: Final = {"tenant.slug": "a slug has 3 to 40 of a-z, 0-9 and -, a letter first and no - last"}
"""The same where a service says in words what else may be wrong with a field."""


def told(fault: faults.Fault, helped: str = "") -> str:
    """Say what went wrong, which fields or windows are meant, when it may go again, and which command helps."""
    if fault.reason == faults.RequestInvalid.reason and (forms := _forms(fault)):
        return f"{'; '.join(forms)} ({fault.reason})"
    helped = helped or _help(fault)
    text = "; ".join([f"{_spoken(fault.text, helped)} ({fault.reason})", *_named(fault), *_pause(fault)])
    return f"{_PATTERN.sub('has another form', text)}{helped}"


def _spoken(text: str, helped: str) -> str:
    """Leave out what is for programs, which call methods, where people are told a command."""
    first, *clauses = text.split("; ")
    return "; ".join([first, *(clause for clause in clauses if not (helped and _METHOD.search(clause)))])


def _named(fault: faults.Fault) -> list[str]:
    """Give the fields and windows that the text does not speak of already."""
    return [f"{subject}: {problem}" for subject, problem in fault.violations.items() if problem not in fault.text]


def _pause(fault: faults.Fault) -> list[str]:
    if fault.retry_after is None or fault.retry_after <= timedelta(seconds=1):
        return []
    return [f"again in {length(fault.retry_after)}"]


def length(span: timedelta) -> str:
    """Give a length of time as people say it."""
    seconds = int(span.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{-(-seconds // size)} {unit}"
    return f"{seconds} s"


def _help(fault: faults.Fault) -> str:
    if fault.reason in COMMANDS:
        return f": {COMMANDS[fault.reason]}"
    if isinstance(fault, faults.Unauthenticated) and fault.reason != "LOGIN_FAILED":
        return ": the kept tokens have ended, or are of another stack; `triptych login`"
    return starting(fault)


def _forms(fault: faults.Fault) -> list[str]:
    """Say what fields must look like; nothing unless it is known of all of them."""
    found = [_form(_INDEX.sub("", path), problem) for path, problem in fault.violations.items()]
    return list(dict.fromkeys(text for text in found if text)) if all(found) else []


def listening(error: Any) -> str:
    """Say what it may be when something listens at an address, and does not speak as our plaintext ports do."""
    said = error.details() or ""
    mute = error.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect" in said
    return "; --address is the plaintext port" if mute and any(text in said for text in _OTHERS) else ""


def starting(fault: faults.Fault) -> str:
    """Say what helps when a service does not answer."""
    if isinstance(fault, faults.Unavailable) and " at " in fault.facts.get("dependency", ""):
        return f": {START}, or name another with --home or --address; if it is starting, wait a moment"
    return ""


def _form(path: str, problem: str) -> str:
    if _PATTERN.search(problem) and path in PATTERNS:
        return PATTERNS[path]
    return FORMS.get(path) or FORMS.get(path.rpartition(".")[2], "")


def permission(fault: faults.Fault, least: int) -> str:
    """Say who may do what somebody may not; `least` is the role of the method, whose fault does not say it."""
    if _METHODS not in fault.text:  # it says itself who may: the method is for others too
        return _CHANGED
    name = Words(Role).word(least)
    whom = f"this is for {name}s and above" if least != Role.ROLE_ADMIN else "this is for admins"
    return f": {whom}{_CHANGED}"
