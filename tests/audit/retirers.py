"""The audit service, which kills itself as a power failure would: `python -m tests.audit.retirers STEP …`.

A step is a function of ours, as `module.Class.function`; the process ends in the moment in which the last of the steps
is called, after the others were, in this order. No code is changed: the interpreter says which function is called.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from services.audit.__main__ import SETTINGS, wire
from services.kit.server import serve


def arm(steps: list[str]) -> None:
    """Kill this process at these steps."""
    waiting = list(steps)

    def look(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not waiting[0].endswith(code.co_name):
            return
        if f"{Path(code.co_filename).stem}.{code.co_qualname}" == waiting[0]:
            waiting.pop(0)
            if not waiting:
                os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(look)
    sys.setprofile(look)


if __name__ == "__main__":
    if sys.argv[1:]:
        arm(sys.argv[1:])
    serve(SETTINGS, wire)
