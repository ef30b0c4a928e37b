"""`triptych usage`: reports, CSV and charts from a running service, and what it says when something is missing."""

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from services.cli.usage import draw, usage
from services.kit.server import Runtime
from tests.providers.conftest import AddProvider
from tests.suite import Person
from triptych.providers.v1 import usage_pb2, usage_service_pb2 as pb
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub


@pytest.fixture
async def used(user: Person, add_provider: AddProvider) -> str:
    """What the command calls the model that was used."""
    provider = await add_provider()
    records = [
        usage_pb2.UsageRecord(
            id=str(uuid.uuid4()), provider_id=provider.id, operation=operation, input_tokens=1000, output_tokens=250
        )
        for operation in ("review", "vision")
    ]
    await user.stub(UsageServiceStub).RecordUsage(pb.RecordUsageRequest(records=records))
    return f"{provider.name}/reviewer"


@pytest.fixture
def login(user: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be logged in as the user."""
    file = tmp_path / "tokens.json"
    tokens = {"address": "127.0.0.1:1", "access_token": user.token, "access_expire_time": time.time() + 600}
    file.write_text(json.dumps(tokens | {"refresh_token": ""}))
    monkeypatch.setenv("TRIPTYCH_TOKENS", str(file))


async def run(runtime: Runtime, command: str, *arguments: str) -> Result:
    """Run the command in a thread of its own: it has a loop of its own."""
    options = [command, "--address", f"127.0.0.1:{runtime.plaintext_port}", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, usage, options)


async def test_a_report_adds_up(runtime: Runtime, used: str, login: None) -> None:
    result = await run(runtime, "report", "--by", "operation", "--by", "model")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert [words for words in lines if used in words] == [
        ["review", used, "1", "1000", "250", "1.5"], ["vision", used, "1", "1000", "250", "1.5"],
    ]  # fmt: skip
    assert "total 3 USD" in result.output
    rows = [json.loads(line) for line in (await run(runtime, "report", "--json")).output.splitlines() if used in line]
    assert [(row["model"], row["requests"], row["cost_usd"]) for row in rows] == [(used, 2, "3")]


async def test_the_ledger_is_written_as_csv(runtime: Runtime, used: str, login: None, tmp_path: Path) -> None:
    file = tmp_path / "ledger.csv"
    assert (await run(runtime, "export", str(file))).exit_code == 0
    assert len((await asyncio.to_thread(file.read_text)).splitlines()) == 3
    assert not file.with_name("ledger.csv.part").exists()


@pytest.mark.parametrize("by", ["model", "operation"])
async def test_a_chart_is_a_picture(runtime: Runtime, used: str, login: None, tmp_path: Path, by: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "cost.png"
    result = await run(runtime, "chart", "--by", by, str(file))
    assert result.exit_code == 0, result.output
    assert "3 USD" in result.output
    assert (await asyncio.to_thread(file.read_bytes)).startswith(b"\x89PNG")


def test_a_chart_of_nothing_and_one_of_too_much_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from decimal import Decimal

    draw(tmp_path / "empty.png", "2026-01-01", "2026-01-31", {})
    many = {f"model {number}": {"2026-01-02": Decimal(number)} for number in range(30)}
    draw(tmp_path / "many.png", "2026-01-01", "2026-12-31", many)
    assert (tmp_path / "many.png").stat().st_size > 1000


async def test_without_matplotlib_it_says_what_to_install(
    runtime: Runtime, login: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = await run(runtime, "chart", str(tmp_path / "cost.png"))
    assert result.exit_code == 1
    assert "triptych[charts]" in result.output


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--from", "yesterday"], "YYYY-MM-DD", 2), (["--from", "2026-02-01", "--to", "2026-01-01"], "before", 2),
        (["--address", "example.com:1"], "not on this machine", 1),
        (["--address", "127.0.0.1:1"], "does not answer", 1),
    ],
)  # fmt: skip
async def test_it_says_what_is_wrong(runtime: Runtime, login: None, arguments: list[str], said: str, code: int) -> None:
    result: Any = await run(runtime, "report", *arguments)
    assert result.exit_code == code
    assert said in result.output
