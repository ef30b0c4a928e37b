"""Structured logs: one JSON object a line on standard output. Fields marked sensitive never come here."""

import logging
import sys

import orjson
import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(*, service: str, level: str) -> None:
    """Set up logging of the process; libraries' own warnings and errors come in the same form."""
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


class _Forward(logging.Handler):
    """Lets what libraries log come out as our lines."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._log = structlog.get_logger(service=service)

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.warning if record.levelno < logging.ERROR else self._log.error
        write("library", logger=record.name, text=record.getMessage(), exc_info=record.exc_info or None)
