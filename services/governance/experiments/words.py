"""The words of this context's enums, as its columns hold them."""

from services.kit.words import Words
from triptych.experiments.v1.blacklist_pb2 import BlacklistReviewState
from triptych.experiments.v1.evaluation_pb2 import Verdict
from triptych.experiments.v1.experiment_pb2 import Arm, ExperimentState
from triptych.experiments.v1.promotion_pb2 import PromotionState
from triptych.projects.v1.policy_pb2 import PolicyOutcome

STATES = Words(ExperimentState)
ARMS = Words(Arm)
VERDICTS = Words(Verdict)
PROMOTION_STATES = Words(PromotionState)
REVIEW_STATES = Words(BlacklistReviewState)
OUTCOMES = Words(PolicyOutcome)
