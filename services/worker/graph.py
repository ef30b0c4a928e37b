"""Graph tasks: how the modules of a folder import each other, where that runs in circles, which functions branch most.

Code is parsed, never imported. Only imports between modules of the folder are edges. Links are not followed.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.worker.findings import SourceRefused, accept

MOST_MODULES, MOST_EDGES, MOST_CYCLES, MOST_FUNCTIONS, MOST_ERRORS = 2000, 5000, 100, 10, 50
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case, ast.comprehension)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Edges = dict[str, set[str]]


def describe(folder: Path) -> dict[str, Any]:
    """Describe a folder; lists are cut to what a result can hold, counts are not."""
    trees, packages, errors = _parse(folder)
    edges: Edges = {
        name: {target for target in _imports(name, tree, trees, is_package=name in packages) if target != name}
        for name, tree in trees.items()
    }
    pairs = [[source, target] for source in sorted(edges) for target in sorted(edges[source])]
    found = cycles(edges)
    branching = sorted(
        (-count, name, line, path) for name, tree in trees.items() for path, line, count in _functions(tree)
    )
    most = [
        {"module": name, "function": path, "line": line, "complexity": -count}
        for count, name, line, path in branching[:MOST_FUNCTIONS]
    ]
    return {
        "module_count": len(trees),
        "modules": sorted(trees)[:MOST_MODULES],
        "edge_count": len(pairs),
        "edges": pairs[:MOST_EDGES],
        "cycle_count": len(found),
        "cycles": found[:MOST_CYCLES],
        "function_count": len(branching),
        "most_complex_functions": most,
        "error_count": len(errors),
        "errors": errors[:MOST_ERRORS],
    }


def cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Give the groups of modules that reach each other."""
    search = _Search(edges)
    for root in sorted(edges):
        if root not in search.low:
            search.enter(root)
        while search.path:
            search.step()
    return sorted(group for group in search.found if len(group) > 1)


class _Search:
    """Tarjan's strongly connected components, without recursion: code may be deeper than Python's stack."""

    def __init__(self, edges: Mapping[str, set[str]]) -> None:
        self.low: dict[str, int] = {}
        self.path: list[tuple[str, Iterator[str]]] = []
        self.found: list[list[str]] = []
        self._edges = edges
        self._index: dict[str, int] = {}
        self._stack: list[str] = []
        self._closed: set[str] = set()

    def enter(self, node: str) -> None:
        self._index[node] = self.low[node] = len(self._index)
        self._stack.append(node)
        self.path.append((node, iter(sorted(self._edges[node]))))

    def step(self) -> None:
        node, targets = self.path[-1]
        target = next(targets, None)
        if target is None:
            self._leave(node)
        elif target not in self._index:
            self.enter(target)
        elif target not in self._closed:
            self.low[node] = min(self.low[node], self._index[target])

    def _leave(self, node: str) -> None:
        self.path.pop()
        if self.path:
            above = self.path[-1][0]
            self.low[above] = min(self.low[above], self.low[node])
        if self.low[node] == self._index[node]:
            start = self._stack.index(node)
            group = self._stack[start:]
            del self._stack[start:]
            self._closed.update(group)
            self.found.append(sorted(group))


def complexity(function: Function) -> int:
    """Count the ways through a function (McCabe); what is defined inside it counts for itself."""
    count = 1
    for node in _own(function):
        if isinstance(node, BRANCHES):
            count += 1
        if isinstance(node, ast.comprehension):
            count += len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
    return count


def _parse(folder: Path) -> tuple[dict[str, ast.Module], set[str], list[dict[str, str]]]:
    trees: dict[str, ast.Module] = {}
    packages: set[str] = set()
    errors: list[dict[str, str]] = []
    above = [folder.name] if (folder / "__init__.py").is_file() else []
    for path in sorted(path for path in folder.rglob("*.py") if path.is_file() and not path.is_symlink()):
        relative = path.relative_to(folder)
        parts = [*above, *relative.with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        try:
            trees[name] = ast.parse(accept(path.read_text(encoding="utf-8")))
        except (SyntaxError, SourceRefused, UnicodeDecodeError, RecursionError, MemoryError) as problem:
            errors.append({"path": relative.as_posix(), "problem": (str(problem) or type(problem).__name__)[:500]})
            continue
        if is_package:
            packages.add(name)
    return trees, packages, errors


def _imports(name: str, tree: ast.Module, known: Mapping[str, ast.Module], *, is_package: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _known(alias.name, known)
        elif isinstance(node, ast.ImportFrom):
            base = _base(name, node, is_package=is_package)
            for alias in node.names:
                yield from _known(f"{base}.{alias.name}" if base else alias.name, known)


def _base(name: str, node: ast.ImportFrom, *, is_package: bool) -> str:
    """Give the absolute name that `from … import` begins with."""
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, node.module] if node.module else kept)


def _known(target: str, known: Mapping[str, ast.Module]) -> Iterator[str]:
    """Give the module of the folder that an imported name is, or lies in."""
    while target:
        if target in known:
            yield target
            return
        target = target.rpartition(".")[0]


def _functions(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    pending: list[tuple[ast.AST, str]] = [(tree, "")]
    while pending:
        node, prefix = pending.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield f"{prefix}{child.name}", child.lineno, complexity(child)
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            pending.append((child, f"{prefix}{child.name}." if named else prefix))  # type: ignore[attr-defined]


def _own(function: Function) -> Iterator[ast.AST]:
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        yield node
        pending.extend(ast.iter_child_nodes(node))
