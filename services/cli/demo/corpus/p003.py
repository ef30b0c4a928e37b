"""Logging of the import worker."""
import logging
import logging.config

PORT = 9_030


def configure() -> None:
    logging.basicConfig(level=logging.INFO)
    listener = logging.config.listen(PORT)
    listener.daemon = True
    listener.start()


def work(rows: list[dict]) -> int:
    log = logging.getLogger("importer")
    for row in rows:
        log.info("imported row %s", int(row["id"]))
    return len(rows)
