"""What the demo's steps share: who is there, what was made, how the story is told."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Struct

from services.cli.demo import corpora
from services.cli.demo.corpora import Item
from services.cli.demo.narrator import Narrator
from services.cli.demo.people import Person, Town
from services.cli.stack import processes
from services.kit import faults
from triptych.projects.v1.project_pb2 import Project

ANSWERS = {"weak": "weak", "repaired": "clean"}
"""Label of the corpus and the answer of an analyser that is right about it."""


@dataclass
class Stage:
    """The demo as it stands."""

    narrator: Narrator
    summary: dict[str, Any]
    folder: Path
    items: Sequence[Item] = field(default_factory=corpora.read)
    cast: dict[str, Person] = field(default_factory=dict)
    project: Project = field(default_factory=Project)
    analysers_id: str = ""
    """The provider that local analysers are charged under."""
    datasets: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    """Version ids by the name of their configuration."""

    def __post_init__(self) -> None:
        self.town = Town(self.addresses, Path(self.summary["home"]) / "data" / "auth" / "mailbox")

    @property
    def addresses(self) -> dict[str, str]:
        """Plaintext address of each service."""
        return {name: service["plaintext"] for name, service in self.summary["services"].items()}

    def items_of(self, dataset: str) -> list[Item]:
        """The programs of a dataset: the whole corpus, or the batch that was added to it last."""
        return [item for item in self.items if item.recent or dataset == "corpus"]

    def refused(self, reason: str) -> "Refused":
        """Expect that what is called inside is refused for this reason, and tell it."""
        return Refused(self.narrator, reason)

    def start(self, *module: str) -> "subprocess.Popen[bytes]":
        """Start a program of this project beside the stack, tied to the demo's life; its output goes to our folder."""
        command = processes.tie([sys.executable, "-m", *module])
        with (self.folder / f"{module[0]}.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603


class Refused(AbstractContextManager[None]):
    """Passes when a fault of the expected reason is raised inside, and fails the step otherwise."""

    def __init__(self, narrator: Narrator, reason: str) -> None:
        self._narrator = narrator
        self._reason = reason

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._narrator.check(isinstance(error, faults.Fault) or error is None, f"unexpected: {error!r}")
        reason = error.reason if isinstance(error, faults.Fault) else "nothing"
        self._narrator.check(reason == self._reason, f"expected to be refused with {self._reason}, got {reason}")
        if isinstance(error, faults.Fault):
            self._narrator.refused(error)
        return True


def struct(values: dict[str, Any]) -> Struct:
    """Plain values as a Struct."""
    made = Struct()
    made.update(values)
    return made
