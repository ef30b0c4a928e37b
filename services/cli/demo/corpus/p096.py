"""Remove an account: administrators only."""
from dataclasses import dataclass


@dataclass
class Person:
    name: str
    roles: frozenset[str]


class Forbidden(Exception):
    """The caller may not do this."""


class Accounts:
    def __init__(self) -> None:
        self.people: dict[str, Person] = {}

    def remove(self, caller: Person, name: str) -> None:
        if "administrator" not in caller.roles:
            raise Forbidden("administrators only")
        del self.people[name]
