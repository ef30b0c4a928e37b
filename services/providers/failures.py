"""What a call to a provider can come to instead of an answer, and what is said of it."""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from services.kit import faults
from services.kit.faults import FailedPrecondition, ResourceExhausted, Unavailable


class Kind(Enum):
    """What a failure means."""

    FAILED = "failed"
    """It did not answer, or said that something is wrong with it: worth another try."""
    BROKEN = "broken"
    """It answered, and not as it should: it may have charged for it, so there is no other try."""
    BUSY = "busy"
    REFUSED = "refused"
    KEY = "key"
    UNPAID = "unpaid"

    @property
    def hard(self) -> bool:
        """It speaks against the provider's health."""
        return self in {Kind.FAILED, Kind.BROKEN}

    @property
    def passing(self) -> bool:
        """Another try may do better."""
        return self in {Kind.FAILED, Kind.BUSY}


@dataclass
class CallFailed(Exception):
    """A call that came to nothing. It holds nothing of what was asked or answered."""

    kind: Kind
    problem: str
    status: int = 0
    retry_after: timedelta | None = None
    waited: float | None = None
    """Seconds that the provider had when its time was over; None: it was not about time."""

    def blames(self, fair: float) -> bool:
        """Say whether this speaks against the provider; who had less than a fair time has not failed."""
        return self.kind.hard and (self.waited is None or self.waited >= fair)

    def fault(self, key_id: str) -> faults.Fault:
        """Give what the caller is told."""
        if self.kind is Kind.BUSY:
            return ProviderBusy("the provider is busy; retry later", retry_after=self.retry_after)
        if self.kind is Kind.REFUSED:
            return RequestRefused(f"the provider refused the request ({self.problem})", status=self.status)
        if self.kind is Kind.KEY:
            text = "the provider refused the key; store another one"
            return KeyRefused(text, key_id=key_id, status=self.status)
        if self.kind is Kind.UNPAID:
            return ProviderUnpaid("the account behind the key has no credit left at the provider", status=self.status)
        return ModelUnavailable(self.problem)


class RequestRefused(FailedPrecondition):
    """The provider refused the request itself."""


class ModelUnavailable(Unavailable):
    """The provider did not answer as it should."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the provider did not answer as it should ({problem}); retry later", problem=problem)


class ProviderBusy(ResourceExhausted):
    """The provider's own rate limit."""


class ProviderUnpaid(FailedPrecondition):
    """No credit is left at the provider."""


class KeyRefused(FailedPrecondition):
    """The provider refused the key, at this call or before."""


class CircuitOpen(Unavailable):
    """The provider failed again and again and is not asked for a while."""

    def __init__(self, retry_after: timedelta) -> None:
        text = "the provider failed again and again and is not asked for a while; retry later or use another"
        super().__init__(text, retry_after=retry_after)


class LocalModelMissing(FailedPrecondition):
    """The operator has set up no local model."""

    def __init__(self) -> None:
        super().__init__("no local model is set up here: the operator names one with the setting local_endpoint")
