"""Enums as columns hold them: the readable lower-case word, without the enum's name in front."""

from typing import Any


class Words:
    """Both ways between an enum's numbers and the words of its column."""

    def __init__(self, enum: Any, prefix: str) -> None:
        self._words: dict[int, str] = {
            number: name.removeprefix(prefix).lower() for name, number in enum.items() if number != 0
        }
        self._numbers = {word: number for number, word in self._words.items()}

    def word(self, number: int) -> str:
        """Give the word of a number."""
        return self._words[number]

    def number(self, word: str) -> Any:
        """Give the number of a word."""
        return self._numbers[word]

    def all(self) -> frozenset[str]:
        """Give all words."""
        return frozenset(self._numbers)
