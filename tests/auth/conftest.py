"""The auth service and its people."""

import json
from pathlib import Path

import pytest

from services.cli.stack import settings
from tests.auth.people import People, Somebody
from tests.suite import Suite


@pytest.fixture
async def people(suite: Suite) -> People:
    await suite.start("auth")
    return People(suite)


@pytest.fixture
async def admin(people: People) -> Somebody:
    return await people.admin()


@pytest.fixture
async def somebody(people: People, admin: Somebody) -> Somebody:
    """A user of the admin's tenant."""
    return await people.join(await admin.invite())


@pytest.fixture
def home(people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose auth service is that of the tests."""
    runtime = people.suite.runtimes["auth"]
    for folder in ("config", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "config" / "auth.toml").write_text(settings.toml(people.suite.values("auth")))
    (tmp_path / "ports.json").write_text(json.dumps({"auth.plaintext": runtime.plaintext_port}))
    assert runtime.settings.data_dir is not None
    (tmp_path / "data" / "auth").symlink_to(runtime.settings.data_dir)
    monkeypatch.setenv("TRIPTYCH_TOKENS", str(tmp_path / "user" / "tokens.json"))
    return tmp_path
