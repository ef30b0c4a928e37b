"""What runs in a fork of the zygote: limits first, then one source is checked or evaluated, then the process ends.

A cell has the body that it was given, one pipe to answer on, and nothing else: no environment, no clock, no other file.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

import regorus

from services.projects.sandbox import frames, sources

MEMORY = 512 * 1024 * 1024
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
_LIMITS = {
    resource.RLIMIT_AS: MEMORY,
    resource.RLIMIT_CPU: 1,
    resource.RLIMIT_NOFILE: 8,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NPROC: 0,
}
_libc = ctypes.CDLL(None)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that made it dies; it may be dead already."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def run(body: bytes, pipe: int, zygote: int) -> None:
    """Do the job and end; never returns."""
    try:
        _confine(pipe, zygote)
        said = frames.encode(_work(json.loads(body)))
        rest = memoryview(frames.SIZE.pack(len(said)) + said)
        while rest:
            rest = rest[os.write(1, rest) :]
    except MemoryError:  # no room to say so: a silent end counts as a crash
        pass
    finally:
        os._exit(0)


def _confine(pipe: int, zygote: int) -> None:
    die_with(zygote)
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.dup2(pipe, 1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for limit, value in _LIMITS.items():
        resource.setrlimit(limit, (value, value))


def _work(job: dict[str, Any]) -> dict[str, Any]:
    engine = regorus.Engine()
    engine.set_gather_prints(True)
    try:
        if "input" in job:
            return {"result": _evaluate(engine, job)}
        _check(engine, job["rego"])
    except sources.Refused as refused:
        return {"problem": refused.problem, "builtin": refused.builtin}
    except RecursionError:
        return {"problem": "expressions nest too deep", "builtin": ""}
    except RuntimeError as error:
        return {"raised": _readable(error)}
    return {}


def _evaluate(engine: Any, job: dict[str, Any]) -> list[Any]:
    """Give the decision in a list, or an empty list when it is undefined."""
    package = engine.add_policy("policy", job["rego"])
    sources.check_package(package)
    engine.set_input_json(json.dumps(job["input"]))
    found = json.loads(engine.eval_query_as_json(f"{package}.{sources.DECISION}"))
    return [expression["value"] for result in found.get("result", []) for expression in result["expressions"]][:1]


def _check(engine: Any, rego: str) -> None:
    sources.check_depth(rego)
    builtins = json.loads(engine.eval_query_as_json("opa.runtime().builtins"))
    known = builtins["result"][0]["expressions"][0]["value"]
    package = engine.add_policy("policy", rego)
    sources.check_package(package)
    tree = json.loads(engine.get_ast_as_json())[0]["ast"]
    sources.check_tree(tree, package, frozenset([*known, "print"]))
    engine.eval_query("true")  # resolves every variable and evaluates no rule


def _readable(error: RuntimeError) -> str:
    """Keep the engine's message and its place; a stack trace may follow, which tells of this machine."""
    lines = str(error).partition("\n\nStack backtrace")[0].strip().splitlines()
    place = next((line.strip().removeprefix("--> policy:") for line in lines if "--> policy:" in line), "")
    text = next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "it failed")
    return f"line {place}: {text.removeprefix('error: ')}"[:500] if place else text.removeprefix("error: ")[:500]


def prepare() -> None:
    """Touch what every cell needs, so that forks share it, and fail early if it is not there."""
    engine = regorus.Engine()
    engine.add_policy("policy", "package warm\n\ndecision := 1\n")
    engine.eval_query_as_json("data.warm.decision")
    os.environ.clear()
    sys.setrecursionlimit(500)
