"""The words that stand in the database for the numbers of proto enums: EXPERIMENT_STATE_CREATED is `created`."""

from typing import Any

from triptych.experiments.v1.blacklist_pb2 import BlacklistReviewState
from triptych.experiments.v1.evaluation_pb2 import Verdict
from triptych.experiments.v1.experiment_pb2 import Arm, ExperimentState
from triptych.experiments.v1.promotion_pb2 import PromotionState


class Words:
    """One enum's words, both ways."""

    def __init__(self, enum: Any, prefix: str) -> None:
        pairs = [(name.removeprefix(prefix).lower(), number) for name, number in enum.items() if number]
        self._words: dict[int, str] = {number: word for word, number in pairs}
        self._numbers: dict[str, Any] = dict(pairs)

    def word(self, number: int) -> str:
        """Give the word of a number."""
        return self._words[number]

    def number(self, word: str | None) -> Any:
        """Give the number of a word; none is unspecified."""
        return self._numbers[word] if word is not None else 0


STATES = Words(ExperimentState, "EXPERIMENT_STATE_")
ARMS = Words(Arm, "ARM_")
VERDICTS = Words(Verdict, "VERDICT_")
PROMOTION_STATES = Words(PromotionState, "PROMOTION_STATE_")
REVIEW_STATES = Words(BlacklistReviewState, "BLACKLIST_REVIEW_STATE_")
