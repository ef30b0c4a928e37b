"""Remove an account: administrators only."""
from dataclasses import dataclass


@dataclass
class Person:
    name: str
    roles: frozenset[str]


class Accounts:
    def __init__(self) -> None:
        self.people: dict[str, Person] = {}

    def remove(self, caller: Person, name: str) -> None:
        assert "administrator" in caller.roles, "administrators only"
        del self.people[name]
