"""Structured logs: one JSON object a line on standard output. Fields marked sensitive never come here."""

import atexit
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import orjson
import structlog

Line: TypeAlias = tuple[str, float, dict[str, Any]]
"""Level, seconds since 1970, fields."""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
MOST_LINES = 200
_least = logging.INFO
_pending: list[tuple[Callable[..., Line], tuple[Any, ...]]] = []


def configure(*, service: str, level: str) -> None:
    """Set up logging of the process; libraries' own warnings and errors come in the same form."""
    global _least  # noqa: PLW0603 - logging is the process's
    _least = LEVELS[level]
    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps, default=str),
        ],
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
    )
    structlog.contextvars.clear_contextvars()
    handler = _Forward(service)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def later(make: Callable[..., Line], *values: Any) -> None:
    """Add a line, which `make` makes of these values when `flush` writes it: for the line that every RPC leaves.

    Making many at once costs a fraction of making each among other work, whose code and data push ours out of the
    processor's caches.
    """
    _pending.append((make, values))
    if len(_pending) >= MOST_LINES:
        flush()


def flush() -> None:
    """Write the lines that were added; called many times a second, and when the process ends."""
    if not _pending:
        return
    waiting = _pending.copy()
    _pending.clear()
    made = [make(*values) for make, values in waiting]
    if lines := [_line(level, moment, fields) for level, moment, fields in made if LEVELS[level] >= _least]:
        sys.stdout.buffer.write(b"".join(lines))
        sys.stdout.buffer.flush()


def _line(level: str, moment: float, fields: dict[str, Any]) -> bytes:
    whole = {**fields, "level": level, "timestamp": datetime.fromtimestamp(moment, UTC)}
    return orjson.dumps(whole, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


atexit.register(flush)


class _Forward(logging.Handler):
    """Lets what libraries log come out as our lines."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._log = structlog.get_logger(service=service)

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.warning if record.levelno < logging.ERROR else self._log.error
        write("library", logger=record.name, text=record.getMessage(), exc_info=record.exc_info or None)
