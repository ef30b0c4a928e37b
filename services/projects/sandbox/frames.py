"""The wire between service and zygote: frames of a length, the number of the job and a JSON body.

The zygote never parses a body: what comes from a user is read by the service, or by a cell that may die of it.
"""

import json
import struct
from dataclasses import dataclass
from typing import Any

ASK = struct.Struct(">II")
"""Length of the body, number of the job."""
ANSWER = struct.Struct(">IIBI")
"""Length of the body, number of the job, how the cell ended, microseconds that it lived."""
SIZE = struct.Struct(">I")
"""Length of what a cell says; what is shorter was cut off by its death."""
LONGEST_ANSWER = 64 * 1024
DONE, TIMED_OUT, CRASHED, TOO_LARGE = range(4)
"""How a cell ended."""
READY = 0
"""Number of the frame that a new zygote begins with."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a job."""

    end: int
    microseconds: int
    body: bytes


def encode(body: Any) -> bytes:
    """Give a body as bytes."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
