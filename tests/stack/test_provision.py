"""`triptych provision` against servers that it did not start; OpenBao with the configuration of compose.yaml."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from services.cli.provision import provision
from services.cli.stack import databases, openbao, ports, processes, topology
from services.cli.stack.backends import Backends


@pytest.fixture
def vault(backends: Backends) -> Iterator[str]:
    """Start a second OpenBao, which unseals itself as in compose.yaml."""
    folder = backends.home.folder("external")
    (folder / "raft").mkdir(mode=0o700)
    (folder / "seal").write_bytes(secrets.token_bytes(32))
    claims = ports.Claims()
    chosen = ports.choose(backends.topology, remembered={}, demanded={}, claims=claims)
    text = (topology.deploy() / "vault" / "server.hcl").read_text()
    for old, new in {
        "/openbao/file": str(folder / "raft"),
        "/run/secrets/openbao_seal": str(folder / "seal"),
        "0.0.0.0:8200": f"127.0.0.1:{chosen['openbao']}",
        "127.0.0.1:8201": f"127.0.0.1:{chosen['openbao.cluster']}",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "server.hcl").write_text(text)
    argv = [str(openbao.program()), "server", f"-config={folder / 'server.hcl'}"]
    process = processes.start(backends.home, processes.Command("openbao-external", argv))
    url = f"http://127.0.0.1:{chosen['openbao']}"
    try:
        openbao.wait(openbao.connect(url), {"uninitialised"}, check=process.check)
        yield url
    finally:
        process.stop()


@pytest.fixture
def restored(backends: Backends) -> Iterator[None]:
    """Put the passwords of the roles back: one cluster has them once."""
    yield
    passwords = {role: backends.password(role) for role in backends.topology.logins()}
    asyncio.run(databases.provision(backends.postgres_server, "triptych", passwords))


@pytest.mark.usefixtures("restored")
def test_it_prepares_both_servers_and_a_second_time_changes_nothing(backends: Backends, vault: str) -> None:
    folder = backends.home.path / "external" / "secrets"
    arguments = [
        f"--postgres-url=postgresql://postgres@127.0.0.1:{backends.ports['postgres']}/external",
        f"--postgres-password-file={backends.postgres.password_file}",
        f"--vault-url={vault}",
        f"--vault-token-file={folder.parent / 'token'}",
        f"--secrets={folder}",
        f"--owner={os.geteuid()}",
    ]
    first = CliRunner().invoke(provision, arguments)
    assert first.exit_code == 0, first.output
    files = {path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert {str(name) for name in files if name.parts[0] == "audit"} == {
        f"audit/{name}" for name in ("database-password", "relay-password", "role-id", "secret-id")
    }
    assert CliRunner().invoke(provision, arguments).exit_code == 0
    assert files == {path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.is_file()}

    async def enter() -> None:
        password = files[Path("audit/database-password")]
        await (
            await asyncpg.connect(
                host="127.0.0.1",
                port=backends.ports["postgres"],
                user="triptych_audits_app",
                password=password,
                database="external",
            )
        ).close()

    asyncio.run(enter())
    client = openbao.connect(vault)
    role, secret = files[Path("audit/role-id")], files[Path("audit/secret-id")]
    assert client.auth.approle.login(role_id=role, secret_id=secret)["auth"]["token_policies"] == ["audit"]
