"""The policy sandbox: what it survives, and what it lets through."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from services.projects import decisions, policies
from services.projects.policies import PolicyForbiddenBuiltin, PolicyInvalid
from services.projects.sandbox import frames
from services.projects.sandbox.supervisors import PolicySandboxUnavailable, Sandbox
from tests.patience import output, until, within
from tests.projects import hostile
from triptych.projects.v1.policy_pb2 import PolicyOutcome

GOOD = """package gate

decision := {"allow": count(denials) == 0, "deny": denials}

denials contains {"code": "LOW", "msg": sprintf("accuracy %v", [input.accuracy])} if input.accuracy < 0.9
"""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox()
    await made.start()
    keeper = asyncio.create_task(made.keep())
    yield made
    keeper.cancel()
    await within(made.close())


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _environment(pid: int) -> list[bytes]:
    return [entry for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if entry]


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


async def _outcome(sandbox: Sandbox, rego: str, accuracy: float = 0.95) -> "PolicyOutcome.ValueType":
    return decisions.judge(await sandbox.evaluate(rego, {"accuracy": accuracy}))[0]


async def test_a_good_policy_says_yes_and_no(sandbox: Sandbox) -> None:
    assert await _outcome(sandbox, GOOD) == PolicyOutcome.POLICY_OUTCOME_ALLOW
    outcome, denials = decisions.judge(await sandbox.evaluate(GOOD, {"accuracy": 0.5}))
    assert (outcome, denials[0].code, denials[0].message) == (
        PolicyOutcome.POLICY_OUTCOME_DENY,
        "LOW",
        "accuracy 0.5",
    )


@pytest.mark.parametrize("name", hostile.POLICIES)
async def test_a_hostile_policy_has_a_definite_outcome_and_leaves_no_child(sandbox: Sandbox, name: str) -> None:
    body, allowed = hostile.POLICIES[name]
    zygote = sandbox.pid
    assert await _outcome(sandbox, f"package gate\n\n{body}\n") in allowed
    assert _children(zygote) == ""
    assert (sandbox.pid, await _outcome(sandbox, GOOD)) == (zygote, PolicyOutcome.POLICY_OUTCOME_ALLOW)


async def test_hostile_policies_at_once_do_not_hinder_a_good_one(sandbox: Sandbox) -> None:
    bodies = [body for body, _ in hostile.POLICIES.values()]
    bad = [_outcome(sandbox, f"package gate\n\n{body}\n") for body in bodies]
    *outcomes, good = await asyncio.gather(*bad, _outcome(sandbox, GOOD))
    assert PolicyOutcome.POLICY_OUTCOME_ALLOW not in outcomes
    assert good == PolicyOutcome.POLICY_OUTCOME_ALLOW
    assert _children(sandbox.pid) == ""


async def test_a_cell_has_no_environment(sandbox: Sandbox) -> None:
    policy = 'package gate\n\ndecision := {"allow": object.get(opa.runtime(), "env", {}) == {}, "deny": []}\n'
    assert await _outcome(sandbox, policy) == PolicyOutcome.POLICY_OUTCOME_ALLOW


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ('http.send({"url": "x"})', "http.send"),
        ('http["send"]({"url": "x"})', "http.send"),
        ("opa.runtime()", "opa.runtime"),
        ('net.cidr_contains("10.0.0.0/8", "10.1.1.1")', "net.cidr_contains"),
        ('rand.intn("x", 5)', "rand.intn"),
        ('uuid.rfc4122("x")', "uuid.rfc4122"),
        ("time.now_ns()", "time.now_ns"),
        ("[y | y := [z | z := time.now_ns()]]", "time.now_ns"),
    ],
)
async def test_a_builtin_that_reaches_out_is_refused_by_name(sandbox: Sandbox, name: str, builtin: str) -> None:
    with pytest.raises(PolicyForbiddenBuiltin) as caught:
        policies.admit(await sandbox.check(f"package gate\n\nx := {name}\n\ndecision := x\n"))
    assert caught.value.facts == {"builtin": builtin}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("decision := ", "expecting expression"),
        ("other := 1", "no `decision`"),
        ("decision := " + "[" * 65 + "]" * 65, "nest deeper than 64"),
        ("decision := " + "[" * 60 + "]" * 60, "too much time or memory"),
        ("decision := a" + ".b" * 500, "nest too deep"),
        ("f(n) := f(n + 1)\ndecision := f(1)", "depends on itself"),
        ("f(n) := g(n)\ng(n) := data.gate.f(n)\ndecision := f(1)", "depends on itself"),
        ("decision := a\na := b\nb := data.gate.a", "depends on itself"),
        ("decision := data.gate[input.x]", "depends on itself"),
        ("decision := no.such(1)", "no function no.such"),
        ('decision := time[input.x]("a")', "expecting identifier"),
        ("decision := 1 if { nowhere }", "nowhere"),
    ],
)
async def test_a_source_that_cannot_work_is_refused(sandbox: Sandbox, body: str, problem: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        policies.admit(await sandbox.check(f"package gate\n\n{body}\n"))
    assert problem in caught.value.facts["problem"]
    assert "/" not in caught.value.facts["problem"]


async def test_a_package_needs_a_plain_name(sandbox: Sandbox) -> None:
    with pytest.raises(PolicyInvalid):
        policies.admit(await sandbox.check('package a["b c"]\n\ndecision := 1\n'))


@pytest.mark.parametrize(
    "source",
    [
        GOOD,
        "package a.b\n\nimport rego.v1\n\ndefault decision.allow := false\n\ndecision.deny := []\n",
        "package gate\n\nf(decision) := decision\n\ndecision := f(1)\n",
        "package gate\n\nq.r := 1\n\nq.s := q.r\n\ndecision := q.s\n",
        'package gate\n\n# [[[ " in a comment\ndecision := "[[[" if print("hi")\n',
    ],
)
async def test_a_source_that_works_is_admitted(sandbox: Sandbox, source: str) -> None:
    policies.admit(await sandbox.check(source))


async def test_a_zygote_that_is_killed_is_replaced(sandbox: Sandbox) -> None:
    before = sandbox.pid
    os.kill(before, signal.SIGKILL)
    await until(lambda: sandbox.pid not in (0, before))
    await until(lambda: sandbox.ready)
    assert await _outcome(sandbox, GOOD) == PolicyOutcome.POLICY_OUTCOME_ALLOW


async def test_who_waits_when_the_zygote_dies_is_told(sandbox: Sandbox) -> None:
    os.kill(sandbox.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(sandbox.evaluate(GOOD, {}))
    await until(lambda: bool(sandbox._waiting))
    os.kill(sandbox.pid, signal.SIGKILL)
    with pytest.raises(PolicySandboxUnavailable):
        await waiting


async def test_a_silent_zygote_is_given_up(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.projects.sandbox.supervisors.SILENCE", 0.2)
    before = sandbox.pid
    os.kill(before, signal.SIGSTOP)
    with pytest.raises(PolicySandboxUnavailable):
        await sandbox.evaluate(GOOD, {})
    await until(lambda: sandbox.pid not in (0, before))


async def test_a_sandbox_that_is_closed_leaves_no_process() -> None:
    made = Sandbox()
    await made.start()
    pid = made.pid
    await made.close()
    assert not _exists(pid)
    with pytest.raises(PolicySandboxUnavailable):
        await made.evaluate(GOOD, {})


async def test_a_zygote_and_its_cells_die_with_the_service() -> None:
    script = (
        "import asyncio\n"
        "from services.projects.sandbox.supervisors import Sandbox\n"
        "async def main():\n"
        "    sandbox = Sandbox()\n"
        "    await sandbox.start()\n"
        "    print(sandbox.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        zygote = int(await within(process.stdout.readline()))
        assert _exists(zygote)
    finally:
        process.kill()
    await within(process.wait())
    await until(lambda: not _alive(zygote))


def _alive(pid: int) -> bool:
    """A zombie that nobody waits for is dead."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_the_zygote_knows_nothing_of_the_service(sandbox: Sandbox) -> None:
    script = "import sys, services.projects.sandbox.zygote; print(sorted(sys.modules))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    modules = (await output(process))[0].decode()
    for name in ("'grpc'", "'asyncio'", "'services.kit'", "'sqlalchemy'", "'google.protobuf'"):
        assert name not in modules
    assert _environment(sandbox.pid) == [b"MIMALLOC_ARENA_RESERVE=32768"]


async def test_an_answer_is_json(sandbox: Sandbox) -> None:
    answer = await sandbox.evaluate(GOOD, {"accuracy": 1})
    assert answer.end == frames.DONE
    assert answer.microseconds > 0
    assert orjson.loads(answer.body) == {"result": [{"allow": True, "deny": []}]}
