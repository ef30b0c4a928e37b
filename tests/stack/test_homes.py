"""The home: permissions, secrets, the lock, and what a second start finds."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from services.cli.stack import accounts
from services.cli.stack.backends import Backends
from services.cli.stack.faults import StackFault
from services.cli.stack.openbao import connect


@pytest.fixture
def closed() -> Iterator[Path]:
    """Name a home below a folder that only its owner may pass."""
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o700)
    yield parent / "a home"
    data = parent / "a home" / "postgres" / "data"
    if data.is_symlink():
        data.resolve().with_suffix(".home").unlink()
        shutil.rmtree(data.resolve())
    shutil.rmtree(parent)


def test_files_and_folders_are_private(backends: Backends) -> None:
    passage = 0o711 if os.geteuid() == 0 else 0o700
    for folder, _, files in os.walk(backends.home.path):
        path = Path(folder)
        if backends.postgres.data in (path, *path.parents):
            continue  # PostgreSQL's own, which it refuses to start with unless it is private
        doors = (backends.home.path, backends.home.path / "postgres")
        assert stat.S_IMODE(path.stat().st_mode) == (passage if path in doors else 0o700), path
        for name in files:
            assert stat.S_IMODE((path / name).stat().st_mode) == 0o600, path / name
    assert stat.S_IMODE(backends.postgres.data.stat().st_mode) == 0o700


def test_no_secret_is_in_an_argument_or_an_environment(backends: Backends) -> None:
    secrets = [path.read_text() for path in (backends.home.path / "secrets").iterdir()]
    for server in (backends.postgres, backends.valkey, backends.openbao):
        assert server.process is not None
        process = Path(f"/proc/{server.process.pid}")
        text = (process / "cmdline").read_text() + (process / "environ").read_text()
        assert not [secret for secret in secrets if secret in text]


def test_no_secret_is_in_a_log_or_in_the_settings(backends: Backends) -> None:
    secrets = [path.read_text() for path in (backends.home.path / "secrets").iterdir()]
    for log in (backends.home.path / "logs").iterdir():
        assert not [secret for secret in secrets if secret in log.read_text()], log
    for service in backends.topology.services:
        settings = str(backends.service_settings(service.name))
        assert not [secret for secret in secrets if secret in settings]


def test_a_home_serves_one_stack_at_a_time(backends: Backends) -> None:
    with pytest.raises(StackFault, match=rf"another triptych \(pid {os.getpid()}\) runs in"):
        Backends(backends.home.path).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a home of somebody else")
def test_a_home_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(StackFault, match="belongs to the user with uid 65534"):
        Backends(tmp_path).start()


async def test_a_second_start_keeps_the_data_behind_a_closed_folder(closed: Path) -> None:
    with Backends(closed, durable=True) as first:
        connection = await first.postgres_server.connect("triptych")
        await connection.execute("CREATE TABLE public.kept AS SELECT 42 AS answer")
        await connection.close()
        _valkey(first).set("kept", "42")
        sealed = _encrypt(first, "NDI=")
        role = first.home.read("secrets", "approle-auth.secret")
    with Backends(closed) as second:
        ports = second.ports
        assert second.home.read("secrets", "approle-auth.secret") == role
        connection = await second.postgres_server.connect("triptych")
        assert await connection.fetchval("SELECT answer FROM public.kept") == 42
        await connection.close()
        assert _valkey(second).get("kept") == b"42"
        assert _decrypt(second, sealed) == "NDI="
        if os.geteuid() == 0:
            assert second.postgres.data.parent == Path("/var/lib/triptych")
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(host="127.0.0.1", port=ports["postgres"], user="postgres", password="x")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user never becomes a third one")
def test_servers_behind_a_closed_folder_are_copied(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    account = accounts.unprivileged()
    package = tmp_path / "package"
    (package / "pginstall" / "bin").mkdir(parents=True)
    (package / "pginstall" / "bin" / "postgres").write_text("a program")
    assert account is not None
    assert not account.reaches(package)
    programs = accounts.place_servers(package, account)
    assert account.reaches(programs)
    assert (programs / "postgres").read_text() == "a program"
    assert accounts.place_servers(package, account) == programs
    shutil.rmtree(programs.parents[2])


def _valkey(backends: Backends) -> redis.Redis:
    return redis.Redis.from_url(backends.valkey.url, password=backends.valkey.password_file.read_text())


def _encrypt(backends: Backends, plaintext: str) -> str:
    client = connect(backends.openbao.url, backends.openbao.token_file.read_text())
    answer = client.secrets.transit.encrypt_data("auth-seal", plaintext)
    return str(answer["data"]["ciphertext"])


def _decrypt(backends: Backends, ciphertext: str) -> str:
    client = connect(backends.openbao.url, backends.openbao.token_file.read_text())
    return str(client.secrets.transit.decrypt_data("auth-seal", ciphertext)["data"]["plaintext"])
