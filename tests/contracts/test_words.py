"""What the README says is what is there."""

import re
from pathlib import Path

import pytest

from services.cli.main import COMMANDS, SUMMARIES
from services.cli.stack import topology
from tests.contracts.protos import ROOT

README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_map_is_the_topology() -> None:
    rows = re.findall(r"^\| `services/([a-z/]+)` \| (\w+) \| `(\w+)` \| (\d+) \|", README, re.MULTILINE)
    plan = topology.read().services
    expected = [(s.module.removeprefix("services.").replace(".", "/"), s.name, s.schema, str(s.port)) for s in plan]
    assert sorted(rows) == sorted(expected)


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) < 250


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_exists(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_make_targets_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    named = re.findall(r"`((?:services|protos|deploy|tests|docs)/[\w./-]*\w/?)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    targets = set(re.findall(r"(?:`|^    |^)make ([a-z]+)(?:`|\s*$|  )", text, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in sorted(targets) if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_every_command_has_a_summary() -> None:
    assert set(COMMANDS) == set(SUMMARIES)


def test_a_trace_of_one_request_goes_through_files_that_say_what_it_says() -> None:
    stops = {
        "services/kit/calls.py": "async def around(",
        "services/projects/api/projects.py": "async def CreateProject(",
        "services/projects/foundations.py": "async def create(",
        "services/kit/outbox.py": "async def record(",
        "services/kit/db.py": "async def begin(",
    }
    for name, text in stops.items():
        assert f"]({name})" in README
        assert text in (ROOT / name).read_text()
