"""Streams that go on until Ctrl-C: the services end each after some minutes, and the next begins where it was."""

import time
from collections.abc import Callable
from typing import Any, Final

import click

from services.cli.links import Link
from services.cli.numbers import Whole

STRETCH: Final = 300
"""Seconds of one stream, the most that the services allow."""
SLACK: Final = 20
seconds_option = click.option("--seconds", type=Whole(1), help="End after so many seconds; else at Ctrl-C.")


def follow(
    link: Link, call: tuple[Callable[[Any], Any], str], request: Any, seconds: int | None, tell: Callable[[Any], None]
) -> None:
    """Tell what comes; Ctrl-C is the usual end and no failure. A `resume_token` is taken along."""
    left = STRETCH if seconds is None else seconds
    try:
        while left > 0:
            begun, request.seconds = time.monotonic(), min(left, STRETCH)
            for answer in link.stream(*call, request, seconds=request.seconds + SLACK):
                tell(answer)
                if "resume_token" in answer.DESCRIPTOR.fields_by_name:
                    request.resume_token = answer.resume_token
            if seconds is not None:
                left -= max(1, round(time.monotonic() - begun))
    except KeyboardInterrupt:
        return
