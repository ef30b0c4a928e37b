"""Cool-downs: how long nobody may ask to try a sealed configuration again. Pure."""

from datetime import timedelta

from services.governance.quarantine.settings import QuarantineSettings
from triptych.quarantine.v1 import quarantine_service_pb2 as pb
from triptych.quarantine.v1.quarantine_pb2 import QuarantineReason


class CoolDowns:
    """The periods of one installation."""

    def __init__(self, settings: QuarantineSettings) -> None:
        self._periods = {
            QuarantineReason.QUARANTINE_REASON_REGRESSION: timedelta(days=settings.regression_cool_down_days),
            QuarantineReason.QUARANTINE_REASON_FAILED_GATE: timedelta(days=settings.failed_gate_cool_down_days),
            QuarantineReason.QUARANTINE_REASON_COST: timedelta(days=settings.cost_cool_down_days),
        }

    def of(self, request: pb.RequestQuarantineRequest) -> timedelta | None:
        """Give the cool-down of a request; None is for ever, and a security failure cannot be made less."""
        if request.reason == QuarantineReason.QUARANTINE_REASON_SECURITY:
            return None
        if request.HasField("cool_down"):
            return request.cool_down.ToTimedelta()
        return self._periods[request.reason]
