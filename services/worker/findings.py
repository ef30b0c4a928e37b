"""What an analyser says about one program, and the two ways in which it can have nothing to say.

A program that was refused and an analyser that failed are outcomes of their own; neither reads as "clean".
"""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["low", "medium", "high", "unrated"]
LIMIT = 1 << 20  # bytes; larger programs are generated, and would hold an engine for minutes


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark of one engine; `unrated` where the engine does not grade, no CWE where it names none."""

    engine: str
    rule: str
    severity: Severity
    confidence: Severity
    line: int
    message: str
    cwe: int | None


class SourceRefused(Exception):
    """The program cannot be analysed; the text says what is wrong with it."""


class EngineFailed(Exception):
    """An analyser broke or took too long; the program was not analysed."""

    def __init__(self, engine: str, problem: str) -> None:
        super().__init__(f"{engine} failed: {problem}")
        self.engine = engine


def accept(source: str) -> bytes:
    """Encode a program for an engine, or refuse it."""
    try:
        encoded = source.encode()
    except UnicodeEncodeError as error:
        raise SourceRefused(f"the program is not valid Unicode text: {error.reason}") from error
    if len(encoded) > LIMIT:
        raise SourceRefused(f"the program has {len(encoded)} bytes; at most {LIMIT} are analysed")
    if b"\0" in encoded:
        raise SourceRefused("the program contains a null byte")
    return encoded
