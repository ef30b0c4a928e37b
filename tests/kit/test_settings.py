"""Settings: from a file, over it the environment; what is wrong stops the start and says what."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.kit.server import REFUSED
from services.kit.settings import Settings, SettingsInvalid
from tests.patience import SECONDS

NEEDED = {
    "service": "projects",
    "database_url": "postgresql://app@127.0.0.1/triptych",
    "database_password_file": "pw",
    "vault_url": "http://127.0.0.1:8200",
    "vault_role_id_file": "role",
    "vault_secret_id_file": "secret",
}


def environment(**changes: str) -> dict[str, str]:
    return {f"TRIPTYCH_{name.upper()}": value for name, value in (NEEDED | changes).items()}


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "projects.toml"
    file.write_text('database_pool_size = 3\nlisten = "127.0.0.1:1"\n[neighbours]\nauth = "dns:///a:1"\n')
    settings = Settings.load({**environment(listen="127.0.0.1:2"), "TRIPTYCH_CONFIG": str(file)})
    assert (settings.database_pool_size, settings.listen) == (3, "127.0.0.1:2")
    assert settings.neighbours == {"auth": "dns:///a:1"}


def test_a_setting_of_one_service_wins_over_that_of_all(tmp_path: Path) -> None:
    file = tmp_path / "projects.toml"
    file.write_text('service = "projects"\n')
    given = environment(listen="127.0.0.1:2", audit_listen="127.0.0.1:3", projects_listen="127.0.0.1:4")
    del given["TRIPTYCH_SERVICE"]
    assert Settings.load({**given, "TRIPTYCH_CONFIG": str(file)}).listen == "127.0.0.1:4"


def test_values_of_the_environment_get_their_types() -> None:
    settings = Settings.load(
        environment(database_pool_size="7", drain_seconds="2.5", neighbours="auth=dns:///a:1,audit=dns:///b:2")
    )
    assert (settings.database_pool_size, settings.drain_seconds) == (7, 2.5)
    assert settings.neighbours == {"auth": "dns:///a:1", "audit": "dns:///b:2"}
    assert settings.database_password_file == Path("pw")


def test_an_empty_path_is_none_where_there_need_be_none_and_refused_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "projects.toml"
    file.write_text('data_dir = "kept"\n')
    given = {**environment(), "TRIPTYCH_CONFIG": str(file)}
    assert Settings.load(given).data_dir == Path("kept")
    assert Settings.load({**given, "TRIPTYCH_DATA_DIR": ""}).data_dir is None
    with pytest.raises(SettingsInvalid, match="vault_secret_id_file is empty"):
        Settings.load({**given, "TRIPTYCH_VAULT_SECRET_ID_FILE": ""})


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsInvalid, match="vault_url"):
        Settings.of({name: value for name, value in NEEDED.items() if name != "vault_url"})


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(SettingsInvalid, match="listne"):
        Settings.of(NEEDED | {"listne": "127.0.0.1:1"})


def test_a_profile_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="profile"):
        Settings.of(NEEDED | {"profile": "staging"})


def test_production_has_no_plaintext_port() -> None:
    with pytest.raises(SettingsInvalid, match="plaintext"):
        Settings.of(NEEDED | {"profile": "production", "listen_plaintext": "127.0.0.1:1"})


def test_plaintext_is_loopback_only() -> None:
    with pytest.raises(SettingsInvalid, match="loopback"):
        Settings.of(NEEDED | {"profile": "development", "listen_plaintext": "0.0.0.0:1"})


@pytest.mark.parametrize("seconds", ["0", "nan", "1000000"])
def test_a_relay_is_heard_at_least_daily_and_not_all_the_time(seconds: str) -> None:
    with pytest.raises(SettingsInvalid, match="heartbeat_seconds"):
        Settings.load(environment(heartbeat_seconds=seconds))


def test_a_start_that_is_refused_says_why_in_one_line(tmp_path: Path) -> None:
    config = tmp_path / "projects.toml"
    config.write_text('service = "projects"\nlistne = "127.0.0.1:0"\n')
    command = [sys.executable, "-m", "services.projects"]
    done = subprocess.run(
        command,
        check=False,
        env={**os.environ, "TRIPTYCH_CONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == REFUSED
    assert "Traceback" not in done.stdout + done.stderr
    assert "start refused" in done.stdout
    assert "listne" in done.stdout
