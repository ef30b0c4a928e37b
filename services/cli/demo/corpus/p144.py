"""Tell other systems that an article has changed."""
import logging

import requests

log = logging.getLogger("changes")


def tell(listeners: list[str], article: int) -> int:
    told = 0
    for address in listeners:
        answer = requests.post(address, json={"article": article}, timeout=10)
        if answer.ok:
            told += 1
        else:
            log.warning("a listener answered %d", answer.status_code)
    return told
