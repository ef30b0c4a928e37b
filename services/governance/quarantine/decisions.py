"""Decisions: who says yes is not who asked. The database holds the same rule (`*_four_eyes`); its words are here."""

from services.kit import calls
from services.kit.db import Row
from services.kit.faults import FailedPrecondition


class SelfApproval(FailedPrecondition):
    """Who asked for it cannot approve it."""


CONSTRAINTS = {
    name: lambda: SelfApproval("who asked for it cannot approve it; another admin must")
    for name in ("quarantine_requests_four_eyes", "reevaluation_requests_four_eyes", "quarantine_records_four_eyes")
}


def check(row: Row) -> str:
    """Give the id of the caller, who must not be the one who asked."""
    decided_by = calls.caller().id
    if str(row["requested_by"]) == decided_by:
        raise SelfApproval(
            "who asked for it cannot approve it; another admin must", requested_by=str(row["requested_by"])
        )
    return decided_by
