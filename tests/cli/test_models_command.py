"""`triptych models`: answers whole and as they are written, what they came to, Ctrl-C, and refusals."""

import json
from typing import Any

import pytest

from services.cli.demo.openai_server import OpenAIServer
from tests.cli.conftest import KEY, Terminal, interrupted
from tests.fakes.model_servers import WORDS, FakeModels
from tests.patience import eventually, until, within

ANSWER = " ".join(WORDS)
SUM = "tokens: 2 in, 4 out; 0.04 USD"


async def test_a_model_answers_at_once_and_piece_by_piece(
    user: Terminal, provider: str, key: dict[str, Any], fake: FakeModels
) -> None:
    for verb in ("invoke", "stream"):
        done = await user.run("models", verb, "--provider", provider, "hello there")
        assert (done.exit_code, done.stdout) == (0, f"{ANSWER}\n"), done.output
        assert done.stderr == f"{SUM}; {provider} (m-{provider}) with your key\n"
    assert fake.body()["messages"] == [{"role": "user", "content": "hello there"}]


async def test_the_small_server_of_the_walkthrough_answers_and_streams(admin: Terminal) -> None:
    async with OpenAIServer() as server:
        where = ("--type", "openai-compatible", "--model", "house-7b", "--endpoint", server.url)
        await admin.good("providers", "create", "house", *where, "--output-cost", "10")
        await admin.good("keys", "store", "house", "--label", "laptop", "--key-stdin", given=KEY)
        for verb in ("invoke", "stream"):
            done = await admin.run("models", verb, "--provider", "house", "--max-tokens", "5", "Why is the sky blue?")
            assert (done.exit_code, done.stdout) == (0, "I read 5 words.\n"), done.output
            assert done.stderr == "tokens: 5 in, 4 out; 0.04 USD; house (house-7b) with your key\n"


async def test_a_question_comes_by_a_pipe_with_its_options(
    user: Terminal, provider: str, key: dict[str, Any], fake: FakeModels
) -> None:
    options = ("--model", f"m-{provider}", "--system", "Be brief.", "--max-tokens", "9", "--temperature", "0.5")
    answer = await user.made("models", "invoke", *options, given="from a pipe\n")
    assert answer["text"] == ANSWER
    assert answer["invocation"]["cost_usd"] == "0.04"
    asked = fake.body()
    assert [message["content"] for message in asked["messages"]] == ["Be brief.", "from a pipe\n"]
    assert (asked["temperature"], asked.get("max_tokens") or asked["max_completion_tokens"]) == (0.5, 9)


async def test_a_stream_for_programs_is_a_line_for_each_piece(
    user: Terminal, provider: str, key: dict[str, Any]
) -> None:
    said = await user.good("models", "stream", "--provider", provider, "--json", "hello there")
    *pieces, end = [json.loads(line) for line in said.splitlines()]
    assert "".join(piece["text"] for piece in pieces) == ANSWER
    assert end["invocation"]["output_tokens"] == "4"


async def test_a_fallback_answers_and_is_named(
    admin: Terminal, user: Terminal, provider: str, key: dict[str, Any], fake: FakeModels
) -> None:
    async with FakeModels("openai") as second:
        where = ("--type", "openai-compatible", "--model", "spare", "--endpoint", second.url)
        await admin.good("providers", "create", "spare", *where)
        await user.good("keys", "store", "spare", "--label", "spare", "--key-stdin", given=KEY)
        fake.always = "unpaid"
        done = await user.run("models", "invoke", "--provider", provider, "--fallback", "spare", "hello there")
    assert (done.exit_code, done.stdout) == (0, f"{ANSWER}\n"), done.output
    assert "; spare (spare) with your key; 2 requests" in done.stderr


async def held(user: Terminal) -> tuple[str, str]:
    """What is charged, and how many calls are under way."""
    windows = {one["name"]: one for one in (await user.made("budgets", "show"))["windows"]}
    return windows["daily_cost_usd"]["committed"], windows["concurrent_requests"]["held"]


async def settled(user: Terminal) -> str:
    """Wait until no call is under way, and give what is charged."""
    return (await eventually(lambda: held(user), lambda now: now[1] == "0"))[0]


async def asked(fake: FakeModels, count: int) -> None:
    """Wait until it was asked so often."""
    await until(lambda: len(fake.requests) >= count)


async def test_ctrl_c_before_a_word_releases_the_hold(
    user: Terminal, provider: str, key: dict[str, Any], fake: FakeModels
) -> None:
    fake.always, before = "slow", len(fake.requests)
    for verb in ("invoke", "stream"):
        process = await user.begin("models", verb, "--provider", provider, "hello there")
        before += 1
        await asked(fake, before)
        said = await interrupted(process)
        assert said == (1, "", "Error: cancelled: the hold is released, nothing is charged\n")
        assert await settled(user) == "0"


async def test_ctrl_c_after_a_word_says_that_it_is_charged(
    user: Terminal, provider: str, key: dict[str, Any], fake: FakeModels
) -> None:
    fake.always = "stall"
    process = await user.begin("models", "stream", "--provider", provider, "hello there")
    assert process.stdout is not None
    assert await within(process.stdout.readexactly(10)) == b"Four words"
    code, rest, said = await interrupted(process)
    assert (code, rest) == (1, "\n")
    assert "what was written until here is charged, the rest of the hold is released" in said
    assert await settled(user) != "0"


async def test_a_stream_that_breaks_off_fails_after_what_came(
    user: Terminal, provider: str, key: dict[str, Any], fake: FakeModels
) -> None:
    fake.always = "cut"
    done = await user.run("models", "stream", "--provider", provider, "hello there")
    assert (done.exit_code, done.stdout) == (1, "Four words\n")
    assert "(MODEL_UNAVAILABLE)" in done.stderr
    assert "`triptych providers health`" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["hello"], 2, "--provider or --model; `triptych providers list`"),
        (["--provider", "PROVIDER"], 2, "as PROMPT, or on standard input"),
        (["--provider", "nothing", "hello"], 1, "there is no provider nothing"),
        (["--model", "nothing", "hello"], 1, "no active provider has the model nothing"),
        (["--provider", "PROVIDER", "--model", "other", "hello"], 1, "leave out --model"),
        (["--provider", "PROVIDER", "hello"], 1, "(KEY_NOT_FOUND): `triptych keys list` shows yours"),
        (["--provider", "PROVIDER", "--operation", "My Op", "hello"], 1, "an operation is in lower case"),
    ],
)
async def test_a_mistake_is_told_with_what_to_do(
    user: Terminal, provider: str, arguments: list[str], code: int, said: str
) -> None:
    given = [provider if one == "PROVIDER" else one for one in arguments]
    assert said in await user.bad("models", "invoke", *given, code=code)


async def test_several_with_one_model_are_named(admin: Terminal, provider: str) -> None:
    where = ("--type", "openai", "--model", f"m-{provider}", "--endpoint", "https://api.example.com")
    await admin.good("providers", "create", "twin", *where)
    said = await admin.bad("models", "invoke", "--model", f"m-{provider}", "hello")
    assert "several have it, name one with --provider" in said
    assert "twin" in said
