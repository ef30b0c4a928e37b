"""Judgements: a process of its own computes each (see statistics.py), so neither the event loop nor memory pays."""

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from services.kit import faults

AT_ONCE = 2
MODULE = "services.governance.experiments.statistics"
# One thread each: the machine is shared with the service. Nothing of the service's environment goes along.
ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
}
_log = structlog.get_logger()


class Judges:
    """Runs statistics in short-lived processes, a few at once, and kills those that take too long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._places = asyncio.Semaphore(AT_ONCE)

    async def judge(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """Give the judgement on a case."""
        async with self._places:
            return await self._run(orjson.dumps(case))

    async def _run(self, case: bytes) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # nothing is imported from the working directory
            "-m",
            MODULE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
        )
        try:
            async with asyncio.timeout(self._seconds):
                output, complaints = await process.communicate(case)
        except TimeoutError:
            raise faults.DeadlineTooShort(
                "the statistics did not end in time; nothing was stored, retry with a smaller dataset"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            _log.error("statistics failed", code=process.returncode, stderr=complaints.decode()[-2000:])
            raise faults.DependencyUnavailable("the statistics failed; retry", dependency="statistics")
        return orjson.loads(output)  # type: ignore[no-any-return]
