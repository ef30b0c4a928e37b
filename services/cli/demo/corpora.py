"""The demo's labelled corpus: pairs of short programs, one with a security weakness, one with it repaired.

They were written for this demo, 91 pairs, and are of no public data set; nothing generates them when it runs, and they
are under the licence of the project. The programs are read and analysed, never run or imported.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

FOLDER: Final = Path(__file__).with_name("corpus")


@dataclass(frozen=True, slots=True)
class Item:
    """One program and the truth about it; `recent` marks the batch that was added last."""

    id: str
    pair: int
    label: Literal["weak", "repaired"]
    cwe: int
    title: str
    recent: bool
    source: str


def read(folder: Path = FOLDER) -> tuple[Item, ...]:
    """Read every item, in the order of the labels."""
    with (folder / "labels.toml").open("rb") as labels:
        entries = tomllib.load(labels)["items"]
    return tuple(Item(**entry, source=(folder / f"{entry['id']}.py").read_text("utf-8")) for entry in entries)
