"""Enums as people and columns read them: EXPERIMENT_STATE_CREATED is `created`.

A value's word is its name in lower case, without the enum's own name, which stands in front of `UNSPECIFIED`.
"""

from typing import Any


class Words:
    """One proto enum's words, both ways."""

    def __init__(self, enum: Any) -> None:
        prefix = enum.Name(0).removesuffix("UNSPECIFIED")
        self._words: dict[int, str] = {number: name.removeprefix(prefix).lower() for name, number in enum.items()}
        self._numbers: dict[str, Any] = {word: number for number, word in self._words.items()}

    def word(self, number: int) -> str:
        """Give the word of a number."""
        return self._words[number]

    def number(self, word: str | None) -> Any:
        """Give the number of a word; that of none is unspecified."""
        return self._numbers[word] if word is not None else 0

    def all(self) -> frozenset[str]:
        """Give all words but that of unspecified."""
        return frozenset(word for number, word in self._words.items() if number)
