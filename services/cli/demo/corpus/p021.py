"""Withdraw the rights of people who have left."""
import logging

log = logging.getLogger("rights")


def withdraw(directory, people: list[str]) -> list[str]:
    done = []
    for person in people:
        try:
            directory.withdraw(person)
        except ConnectionError:
            log.exception("the rights of one person could not be withdrawn")
            raise
        done.append(person)
    return done


def report(done: list[str]) -> str:
    return f"{len(done)} people have no rights any more"
