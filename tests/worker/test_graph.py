"""Import graphs, cycles and complexity of folders of Python."""

import ast
from pathlib import Path

import pytest

from services.worker import graph

PACKAGE = {
    "__init__.py": "",
    "a.py": "from pkg import b\nimport os\n",
    "b.py": "from .sub import c\n\n\nclass Box:\n    def open(self, x):\n        return 1 if x else 2\n",
    "sub/__init__.py": "from . import c\n",
    "sub/c.py": "from ..a import something\nfrom .. import b as bee\n",
    "sub/alone.py": "import json\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def function(text: str) -> graph.Function:
    node = ast.parse(text).body[0]
    assert isinstance(node, graph.Function)
    return node


def test_modules_of_a_folder_import_each_other(tmp_path: Path) -> None:
    described = graph.describe(write(tmp_path / "pkg", PACKAGE))
    assert described["modules"] == ["pkg", "pkg.a", "pkg.b", "pkg.sub", "pkg.sub.alone", "pkg.sub.c"]
    assert described["edges"] == [
        ["pkg.a", "pkg.b"],
        ["pkg.b", "pkg.sub.c"],
        ["pkg.sub", "pkg.sub.c"],
        ["pkg.sub.c", "pkg.a"],
        ["pkg.sub.c", "pkg.b"],
    ]
    assert described["cycles"] == [["pkg.a", "pkg.b", "pkg.sub.c"]]
    assert described["most_complex_functions"] == [
        {"module": "pkg.b", "function": "Box.open", "line": 5, "complexity": 2}
    ]


def test_a_folder_that_is_no_package_names_its_modules_from_itself(tmp_path: Path) -> None:
    described = graph.describe(
        write(tmp_path, {"one.py": "import two\n", "two.py": "", "p/__init__.py": "import one\n"})
    )
    assert described["edges"] == [["one", "two"], ["p", "one"]]
    assert described["cycle_count"] == 0


def test_what_cannot_be_parsed_is_an_error_and_not_silence(tmp_path: Path) -> None:
    write(tmp_path, {"broken.py": "def (:\n", "null.py": "a\0b", "fine.py": ""})
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe")
    described = graph.describe(tmp_path)
    assert [error["path"] for error in described["errors"]] == ["broken.py", "bytes.py", "null.py"]
    assert described["modules"] == ["fine"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"secret.py": ""})
    inside = write(tmp_path / "inside", {"own.py": ""})
    (inside / "link.py").symlink_to(outside / "secret.py")
    (inside / "folder").symlink_to(outside)
    assert graph.describe(inside)["modules"] == ["own"]


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"a": set(), "b": {"a"}}, []),
        ({"a": {"b"}, "b": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}}, [["a", "b", "c"], ["d", "e"]]),
        ({"a": {"c"}, "b": {"c"}, "c": set()}, []),
    ],
)
def test_cycles_are_the_groups_that_reach_each_other(edges: dict[str, set[str]], expected: list[list[str]]) -> None:
    assert graph.cycles(edges) == expected


def test_a_cycle_may_be_longer_than_pythons_stack() -> None:
    count = 20_000
    edges = {f"m{n:05}": {f"m{(n + 1) % count:05}"} for n in range(count)}
    assert [len(group) for group in graph.cycles(edges)] == [count]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(): pass", 1),
        ("def f(x):\n if x: pass\n elif x > 1: pass\n else: pass", 3),
        ("def f(x):\n return x and 1 or 2", 3),
        ("def f(x):\n return [i for i in x if i if i > 1]", 4),
        ("def f(x):\n try: pass\n except ValueError: pass\n except KeyError: pass", 3),
        ("def f(x):\n match x:\n  case 1: pass\n  case _: pass", 3),
        ("def f(x):\n def g(y):\n  if y: pass\n return g", 1),
        ("async def f(x):\n async for i in x:\n  while i: pass", 3),
    ],
)
def test_complexity_counts_the_ways_through_a_function(text: str, expected: int) -> None:
    assert graph.complexity(function(text)) == expected
