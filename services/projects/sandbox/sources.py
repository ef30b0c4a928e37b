"""Which Rego sources are let in, judged on text and syntax tree: pure, no engine.

Refused: what nests too deep, calls itself, calls what is not there, reaches outside, or does not give the same answer
twice. A source that slips through costs no more than a cell.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

DEEPEST = 64
PACKAGE = re.compile(r"data(\.[A-Za-z_][A-Za-z0-9_]*)+")
DECISION = "decision"
FORBIDDEN = re.compile(r"http\.send|opa\.runtime|time\.now_ns|(net|rand|uuid)\..+")
_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|`[^`]*`|#[^\n]*|[\[({]|[\])}]')
_REFERENCES = ("Var", "RefDot", "RefBrack")
_HEADS = ("Compr", "Set", "Func")
Path = tuple[str, ...]


class Refused(Exception):
    """The source is not let in; `builtin` names the builtin that is to blame, if one is."""

    def __init__(self, problem: str, builtin: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.builtin = builtin


def check_depth(source: str) -> None:
    """Refuse brackets that nest too deep: the parser recurses, and takes twice as long for each level."""
    depth = 0
    for token in _TOKEN.finditer(source):
        if token.group() in "[({":
            depth += 1
            if depth > DEEPEST:
                raise Refused(f"brackets nest deeper than {DEEPEST}")
        elif token.group() in "])}":
            depth -= 1


def check_package(package: str) -> None:
    """Refuse a package that cannot be asked for by its name."""
    if not PACKAGE.fullmatch(package):
        raise Refused("the package needs a plain dotted name")


def check_tree(tree: Mapping[str, Any], package: str, builtins: frozenset[str]) -> None:
    """Refuse forbidden and unknown functions, recursion, and a package without `decision`."""
    home = tuple(package.split("."))
    rules = [_rule(rule) for rule in tree["rules"]]
    names = {name for name, _ in rules}
    if not any(name[:1] == (DECISION,) for name in names):
        raise Refused(f"the package {package.removeprefix('data.')} defines no `{DECISION}`")
    edges: dict[Path, set[Path]] = {name: set() for name in names}
    for name, parts in rules:
        calls, references = _uses(parts)
        local = _declared(parts)
        for call in calls:
            _check_call(call, home, names, builtins)
        read = {path for path in references if path[0] not in local}
        targets = {path[len(home) :] if path[: len(home)] == home else path for path in read | calls}
        edges[name] |= {rule for rule in names for path in targets if _overlap(rule, path)}
    _check_recursion(edges)


def _check_call(call: Path, home: Path, names: set[Path], builtins: frozenset[str]) -> None:
    text = ".".join(call)
    if FORBIDDEN.fullmatch(text):
        raise Refused(f"{text} may not be called: a policy sees its input and nothing else", builtin=text)
    if text not in builtins and call not in names and call[len(home) :] not in names:
        raise Refused(f"there is no function {text or 'without a fixed name'}")


def _check_recursion(edges: Mapping[Path, set[Path]]) -> None:
    """Take away, again and again, what depends on nothing that is left; what stays is in or behind a circle."""
    left = dict(edges)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    if left:
        raise Refused(f"{'.'.join(min(left))} depends on itself")


def _overlap(one: Path, other: Path) -> bool:
    """`a.b` means rules `a`, `a.b` and `a.b.c`."""
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _rule(rule: Mapping[str, Any]) -> tuple[Path, list[Any]]:
    """Give a rule's name and its parts without the reference that names it."""
    if (default := rule.get("Default")) is not None:
        return _chain(default["refr"])[0], [default["value"]]
    spec = rule["Spec"]
    head = next(spec["head"][kind] for kind in _HEADS if kind in spec["head"])
    parts = [value for key, value in head.items() if key not in ("span", "refr")]
    return _chain(head["refr"])[0], [*parts, spec["bodies"]]


def _uses(parts: list[Any]) -> tuple[set[Path], set[Path]]:
    """Give the functions that are called and the names that are read; a call without a fixed name is the empty path."""
    calls: set[Path] = set()
    references: set[Path] = set()
    stack: list[Any] = [*parts]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            if (call := node.get("Call")) is not None:
                path, others = _chain(call["fcn"])
                calls.add(() if others else path)
                stack += [*others, call["params"]]
            elif any(kind in node for kind in _REFERENCES):
                path, others = _chain(node)
                references |= {path} if path else set()
                stack += others
            else:
                stack += node.values()
    return calls, references


def _declared(parts: list[Any]) -> set[str]:
    """Give the names that a rule makes for itself: they hide rules of the same name."""
    found: set[str] = set()
    for kind, node in _nodes(parts):
        if kind in ("SomeIn", "SomeVars"):
            found |= set(_variables([node.get("key"), node.get("value")] if kind == "SomeIn" else [node]))
        elif kind == "AssignExpr" and node["op"] == "ColEq":
            found |= set(_variables([node["lhs"]]))
    arguments = parts[0] if parts and isinstance(parts[0], list) else []
    return found | set(_variables(arguments))


def _variables(parts: list[Any]) -> Iterator[str]:
    return (node["value"] for kind, node in _nodes(parts) if kind == "Var")


def _nodes(parts: list[Any]) -> Iterator[tuple[str, Any]]:
    """Walk a tree without recursion: its depth is the author's choice."""
    stack: list[Any] = [*parts]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            for kind, value in node.items():
                if isinstance(value, dict):
                    yield kind, value
                stack.append(value)


def _chain(node: Mapping[str, Any]) -> tuple[Path, list[Any]]:
    """Give the literal beginning of a reference, and the expressions that stand in it."""
    names: list[str | None] = []
    others: list[Any] = []
    while True:
        if "Var" in node:
            names.append(node["Var"]["value"])
            break
        if "RefDot" in node:
            names.append(node["RefDot"]["field"][-1])
            node = node["RefDot"]["refr"]
        elif "RefBrack" in node:
            index = node["RefBrack"]["index"]
            names.append(index["String"]["value"] if "String" in index else None)
            others += [] if "String" in index else [index]
            node = node["RefBrack"]["refr"]
        else:
            names.append(None)
            others.append(node)
            break
    return tuple(str(name) for name in takewhile(lambda name: name is not None, reversed(names))), others
