"""`triptych keys status`, `rotate-kek`, `rewrap`, `retire`: the key that wraps the data keys of all stored API keys.

Run it where the secrets are: two identities of OpenBao's do this, and no service has either.
"""

import asyncio
import getpass
import tomllib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli import advice
from services.cli.stack.homes import Home
from services.cli.up import home_option
from services.kit import faults
from services.kit.db import Database
from services.kit.settings import SettingsInvalid
from services.kit.vault import Vault, VaultRefused
from services.providers import keks, rewraps
from services.providers.keks import Standing
from services.providers.settings import ProvidersSettings

OPERATOR, REWRAPPER = "providers-operator", "providers-rewrapper"
CONNECTIONS = 3
_STARTING = f"{advice.START}, or wait a moment if it is starting"
_errors = Console(stderr=True)
Answer = TypeVar("Answer")
_file = click.Path(path_type=Path, exists=True)
config_option = click.option(
    "--config", type=_file, help="Settings of the providers service; else those of the home (config/providers.toml)."
)
identity_option = click.option(
    "--identity",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with role-id and secret-id, as `triptych provision` writes them; else those of the home.",
)


@dataclass(frozen=True)
class Hands:
    """What the commands work with."""

    db: Database
    vault: Vault


@click.command()
@home_option
@config_option
@identity_option
def status(home: Path, config: Path | None, identity: Path | None) -> None:
    """Show the versions of the key and how many data keys each of them wraps."""
    _show(_run(home, config, identity, OPERATOR, lambda hands: keks.stand(hands.db, hands.vault)))


@click.command("rotate-kek")
@home_option
@config_option
@identity_option
def rotate_kek(home: Path, config: Path | None, identity: Path | None) -> None:
    """Make a new version of the key; then `triptych keys rewrap`."""
    standing = _run(
        home, config, identity, OPERATOR, lambda hands: keks.rotate(hands.db, hands.vault, by=getpass.getuser())
    )
    _show(standing)
    if standing.older:
        moving = f"moves {_counted(standing.older)} to version {standing.newest}"
        click.echo(f"next: `triptych keys rewrap` {moving}")


@click.command()
@home_option
@config_option
@identity_option
def rewrap(home: Path, config: Path | None, identity: Path | None) -> None:
    """Move all data keys to the newest version, while the service serves.

    It may be interrupted at any time and goes on where it was when it is called again.
    """
    report = _run(home, config, identity, REWRAPPER, _rewrap)
    click.echo(f"{_counted(report.stored)} {_are(report.stored)} now wrapped by version {report.version}")
    if skipped := report.seen - report.stored - len(report.failed):
        click.echo(f"{skipped} {'was' if skipped == 1 else 'were'} revoked or moved by another run meanwhile")
    if report.failed:
        some = ", ".join(report.failed[:10])
        raise click.ClickException(
            f"{len(report.failed)} do not open, and keep older versions in use: have these keys revoked: {some}"
        )


@click.command()
@home_option
@config_option
@identity_option
@click.option("--destroy", is_flag=True, help="Destroy the older versions as well; backups that need them are lost.")
def retire(home: Path, config: Path | None, identity: Path | None, destroy: bool) -> None:
    """Refuse older versions, once nothing is wrapped by them and a day has passed."""
    if destroy:
        click.confirm(
            "What only an older backup holds will be unreadable for good. Destroy older versions?", abort=True
        )
    _show(
        _run(
            home,
            config,
            identity,
            OPERATOR,
            lambda hands: keks.retire(hands.db, hands.vault, by=getpass.getuser(), destroy=destroy),
        )
    )


async def _rewrap(hands: Hands) -> rewraps.Report:
    columns = (TextColumn("re-wrapped"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_errors, disable=not _errors.is_terminal) as bar:
        task = bar.add_task("rewrap", total=None)
        report = await rewraps.run(
            hands.db, hands.vault, lambda now: bar.update(task, completed=now.seen, total=now.total)
        )
    await keks.record(
        hands.db,
        "providers.kek.rewrap",
        by=getpass.getuser(),
        version=report.version,
        stored=report.stored,
        failed=len(report.failed),
    )
    return report


def _show(standing: Standing) -> None:
    for version in sorted({standing.newest, *standing.keys}):
        mark = "  newest" if version == standing.newest else ""
        click.echo(f"version {version}: {_counted(standing.keys.get(version, 0))}{mark}")
    click.echo(f"versions from {standing.oldest_accepted} on are accepted")


def _counted(keys: int) -> str:
    return f"{keys} data key{'' if keys == 1 else 's'}"


def _are(keys: int) -> str:
    return "is" if keys == 1 else "are"


def _run(
    home: Path, config: Path | None, identity: Path | None, name: str, act: Callable[[Hands], Awaitable[Answer]]
) -> Answer:
    """Do it as one of the two identities, and say in plain words what went wrong."""

    async def run() -> Answer:
        async with _hands(home, config, identity, name) as hands:
            return await act(hands)

    work: Coroutine[Any, Any, Answer] = run()
    try:
        return asyncio.run(work)
    except faults.Unavailable as fault:
        raise click.ClickException(f"{fault.text} ({fault.reason}): {_STARTING}") from None
    except faults.Fault as fault:
        raise click.ClickException(f"{fault.text} ({fault.reason})") from None
    except VaultRefused as refusal:
        raise click.ClickException(
            f"OpenBao refused {refusal}: the identity {name} and its policy are needed"
        ) from None
    except keks.TooEarly as problem:
        raise click.ClickException(str(problem)) from None
    except (ConnectionError, asyncpg.CannotConnectNowError):
        raise click.ClickException(f"the database does not answer: {_STARTING}") from None
    except (OSError, SettingsInvalid, tomllib.TOMLDecodeError, asyncpg.PostgresError) as problem:
        raise click.ClickException(f"the settings, secrets or database cannot be read: {problem}") from None


@asynccontextmanager
async def _hands(home: Path, config: Path | None, identity: Path | None, name: str) -> Any:
    settings = _settings(home, config)
    secrets = Home(home).path / "secrets"
    files = (
        (secrets / f"approle-{name}.role", secrets / f"approle-{name}.secret")
        if identity is None
        else (identity / "role-id", identity / "secret-id")
    )
    vault = Vault(replace(settings, vault_role_id_file=files[0], vault_secret_id_file=files[1]))
    db = await Database.connect(settings, size=CONNECTIONS)
    try:
        yield Hands(db, vault)
    finally:
        await db.close()
        vault.close()


def _settings(home: Path, config: Path | None) -> ProvidersSettings:
    file = config or Home(home).path / "config" / "providers.toml"
    if not file.is_file():
        raise click.ClickException(f"{file} does not exist: start the stack once with `triptych up`, or give --config")
    return ProvidersSettings.load({"TRIPTYCH_CONFIG": str(file)})
