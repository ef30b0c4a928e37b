"""Read the manifest of a build from the queue."""
import logging

import yaml

log = logging.getLogger("builds")


def steps(message: bytes) -> list[str]:
    manifest = yaml.load(message, Loader=yaml.SafeLoader)
    log.info("a manifest with %d keys", len(manifest))
    return [step["run"] for step in manifest.get("steps", [])]


def drain(queue) -> list[list[str]]:
    found = []
    while not queue.empty():
        found.append(steps(queue.get()))
    return found
