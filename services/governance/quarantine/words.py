"""The words of the enums that this context stores, as its columns hold them."""

from services.kit.words import Words
from triptych.experiments.v1.evaluation_pb2 import Verdict
from triptych.quarantine.v1 import quarantine_pb2, reevaluation_pb2

VERDICTS = Words(Verdict)
REASONS = Words(quarantine_pb2.QuarantineReason)
DISPOSITIONS = Words(quarantine_pb2.Disposition)
REQUEST_STATES = Words(quarantine_pb2.QuarantineRequestState)
STATES = Words(reevaluation_pb2.ReevaluationState)
OUTCOMES = Words(reevaluation_pb2.ReevaluationOutcome)
