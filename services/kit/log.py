"""Structured logs: one JSON object a line on standard output. Fields marked sensitive never come here."""

import atexit
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
MOST_LINES = 100
_least = logging.INFO
_lines: list[bytes] = []


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


def line(fields: dict[str, Any], *, level: str = "info") -> None:
    """Add a line, in the form of all others, to what `flush` writes: for the line that every RPC leaves."""
    if LEVELS[level] < _least:
        return
    fields["level"] = level
    fields["timestamp"] = datetime.now(UTC)
    _lines.append(orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z))
    if level == "error" or len(_lines) >= MOST_LINES:
        flush()


def flush() -> None:
    """Write the lines that were added; called many times a second, and when the process ends."""
    if _lines:
        sys.stdout.buffer.write(b"".join(_lines))
        sys.stdout.buffer.flush()
        _lines.clear()


atexit.register(flush)


class _Forward(logging.Handler):
    """Lets what libraries log come out as our lines."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._log = structlog.get_logger(service=service)

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.warning if record.levelno < logging.ERROR else self._log.error
        write("library", logger=record.name, text=record.getMessage(), exc_info=record.exc_info or None)
