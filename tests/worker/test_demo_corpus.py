"""The demo's corpus is whole, and the demo's configurations do on it what the demo says of them."""

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise

import pytest
from scipy.stats import binomtest

from services.cli.demo import configurations as demo, corpora
from services.cli.demo.corpora import FOLDER, Item
from services.worker import analysers, configurations, scores

ITEMS = corpora.read()
LABELS = {item.id: scores.Label(weak=item.label == "weak", cwe=item.cwe) for item in ITEMS}
RECENT = [item.id for item in ITEMS if item.recent]


def pairs() -> dict[int, list[Item]]:
    found = defaultdict(list)
    for item in ITEMS:
        found[item.pair].append(item)
    return found


def test_it_is_large_and_balanced() -> None:
    assert len(ITEMS) >= 160
    assert len({item.cwe for item in ITEMS}) >= 18
    assert Counter(item.label for item in ITEMS) == {"weak": len(ITEMS) // 2, "repaired": len(ITEMS) // 2}


def test_every_program_has_exactly_one_label() -> None:
    ids = [item.id for item in ITEMS]
    assert len(set(ids)) == len(ids)
    assert {path.stem for path in FOLDER.glob("*.py")} == set(ids)


def test_pairs_are_complete_and_differ() -> None:
    for number, members in pairs().items():
        assert sorted(item.label for item in members) == ["repaired", "weak"], number
        first, second = members
        assert (first.cwe, first.title, first.recent) == (second.cwe, second.title, second.recent), number
        assert first.source != second.source, number


def test_no_two_programs_are_alike() -> None:
    assert len({item.source for item in ITEMS}) == len(ITEMS)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_a_program_is_valid_short_and_keeps_its_label_to_itself(item: Item) -> None:
    ast.parse(item.source)
    assert 8 <= len(item.source.splitlines()) <= 35
    assert re.fullmatch(r"p\d{3}", item.id)
    assert "#" not in re.sub(r'"[^"]*"', "", item.source)  # no comments at all, so none that tells
    telling = r"\b(vulnerab|insecur|unsafe|weakness|secure\b|repaired|fixed|cwe|exploit)"
    assert not re.search(telling, ast.get_docstring(ast.parse(item.source)) or "", re.IGNORECASE)


def test_the_recent_batch_is_one_shop_in_one_run_of_ids() -> None:
    assert 24 <= len(RECENT) <= 30
    assert all(int(after[1:]) - int(before[1:]) == 1 for before, after in pairwise(RECENT))
    assert all("storefront" in item.source for item in ITEMS if item.recent)


@cache
def right(name: str) -> dict[str, bool]:
    configuration = configurations.read(getattr(demo, name))
    analyses = {item.id: analysers.analyse(item.source, configuration) for item in ITEMS}
    return scores.agreed(LABELS, analyses)


def accuracy(name: str) -> float:
    return sum(right(name).values()) / len(ITEMS)


def discordant(better: str, worse: str, ids: list[str]) -> tuple[int, int]:
    """How many programs only the first gets right, and how many only the second."""
    first, second = right(better), right(worse)
    return sum(first[id_] > second[id_] for id_ in ids), sum(second[id_] > first[id_] for id_ in ids)


def test_production_leaves_room_and_the_candidate_uses_it() -> None:
    assert 0.70 <= accuracy("PRODUCTION") <= 0.80
    assert 0.88 <= accuracy("CANDIDATE") < 1
    gained, lost = discordant("CANDIDATE", "PRODUCTION", list(LABELS))
    assert binomtest(gained, gained + lost, alternative="greater").pvalue < 0.01


def test_the_later_idea_is_worse_and_the_recent_batch_is_too_small_to_show_it() -> None:
    lost, gained = discordant("CANDIDATE", "LATER", list(LABELS))
    difference = (gained - lost) / len(LABELS)
    spread = ((gained + lost) / len(LABELS) - difference**2) ** 0.5 / len(LABELS) ** 0.5
    assert difference + 2.58 * spread < -0.05
    lost, gained = discordant("CANDIDATE", "LATER", RECENT)
    assert lost - gained <= 2
    assert lost + gained == 0 or binomtest(lost, lost + gained, alternative="greater").pvalue > 0.1
