"""`triptych provision`: what `triptych up` does to its servers, for a PostgreSQL and an OpenBao of others.

It writes one folder of secrets per service, so that each container gets only its own.
"""

import asyncio
import os
import secrets
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import hvac

from services.cli.stack import databases, openbao, topology, vaults
from services.cli.stack.databases import Server
from services.cli.stack.faults import StackFault
from services.cli.stack.homes import replace


@click.command()
@click.option("--postgres-url", required=True, envvar="TRIPTYCH_POSTGRES_URL", help="A superuser's, without password.")
@click.option("--postgres-password-file", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--vault-url", required=True, envvar="TRIPTYCH_VAULT_URL")
@click.option(
    "--vault-token-file",
    required=True,
    type=click.Path(path_type=Path),
    help="Written here when OpenBao is not initialised yet (it has to unseal itself).",
)
@click.option("--secrets", "folder", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--policies", type=click.Path(path_type=Path, exists=True), help="Other policies than the built-in ones.")
@click.option("--owner", type=int, help="User id that shall own the secrets; for root, who fills other users' folders.")
def provision(
    *,
    postgres_url: str,
    postgres_password_file: Path,
    vault_url: str,
    vault_token_file: Path,
    folder: Path,
    policies: Path | None,
    owner: int | None,
) -> None:
    """Prepare an external PostgreSQL and OpenBao for the services; it changes only what differs."""
    plan = topology.read()
    try:
        address = urlsplit(postgres_url)
        server = Server(
            address.hostname or "127.0.0.1",
            address.port or 5432,
            unquote(address.username or "postgres"),
            postgres_password_file.read_text().strip(),
        )
        passwords = {role: _secret(folder, role) for role in plan.logins()}
        asyncio.run(databases.provision(server, address.path.strip("/") or plan.database, passwords))
        client = _vault(vault_url, vault_token_file)
        vaults.provision(client, plan, policies or topology.deploy() / "vault" / "policies")
        for name in vaults.identities(plan):
            _approle(client, folder / name, name)
        if owner is not None:
            _give(folder, owner)
    except StackFault as fault:
        raise click.ClickException(str(fault)) from fault
    click.echo(f"PostgreSQL and OpenBao are ready; the services' secrets are in {folder}")


def _secret(folder: Path, role: str) -> str:
    """Return the password of a role, made up the first time; the migrator and each service have a folder."""
    plan = topology.read()
    owners = {login: service.name for service in plan.services for login in (service.app, service.relay)}
    path = (
        folder / owners.get(role, "migrator") / ("relay-password" if role.endswith("_relay") else "database-password")
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        replace(path, secrets.token_urlsafe(32))
    return path.read_text()


def _vault(url: str, token_file: Path) -> hvac.Client:
    client = openbao.connect(url)
    state = openbao.state(client)
    if state == "uninitialised":
        answer = openbao.api(client).sys.initialize(recovery_shares=1, recovery_threshold=1)
        replace(token_file, answer["root_token"])
        replace(token_file.with_name("openbao-recovery"), answer["recovery_keys_base64"][0])
        openbao.wait(client, {"active"})
    elif state != "active":
        raise StackFault(f"OpenBao at {url} is {state}: unseal it, then try again")
    if not token_file.exists():
        raise StackFault(f"OpenBao at {url} is initialised, so its token has to be in {token_file}: put it there")
    client.token = token_file.read_text().strip()
    return client


def _approle(client: hvac.Client, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace(folder / "role-id", vaults.role_id(client, name))
    secret = folder / "secret-id"
    if not (secret.exists() and vaults.knows_secret_id(client, name, secret.read_text())):
        replace(secret, vaults.create_secret_id(client, name))


def _give(folder: Path, owner: int) -> None:
    for path in folder.rglob("*"):
        os.chown(path, owner, owner, follow_symlinks=False)
