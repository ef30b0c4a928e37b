"""Download a report, trying again with growing pauses."""
import random
import time

import requests

ATTEMPTS = 5


def pause(attempt: int) -> float:
    return 2**attempt + random.uniform(0, 1)


def download(address: str) -> bytes:
    for attempt in range(ATTEMPTS):
        answer = requests.get(address, timeout=(3, 30))
        if answer.ok:
            return answer.content
        time.sleep(pause(attempt))
    raise RuntimeError(f"no report after {ATTEMPTS} attempts")
