"""`triptych audit retire`: months leave the log for archives. It runs where the audit service runs, with its settings.

The settings are those of a home's stack, or of --config. It signs nothing itself: the running service signs what it has
to wait for. Whatever stops it, run it again.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import asyncpg
import click

from services.audit.retention import Keeper, Rules
from services.audit.retirements import Month, NotCovered, Retirements
from services.audit.settings import AuditSettings
from services.audit.signers import Signer
from services.audit.verifier import Bad
from services.cli.numbers import Whole
from services.cli.stack.homes import Home
from services.cli.up import home_option
from services.kit import faults
from services.kit.db import Database
from services.kit.settings import PREFIX, SettingsInvalid
from services.kit.vault import Vault, VaultRefused

_folder = click.Path(path_type=Path, file_okay=False)


@click.command()
@home_option
@click.option("--before", required=True, help="Months before this one, for instance 2026-08.")
@click.option("--archive", "folder", required=True, type=_folder, help="Folder for the archives; keep copies of it.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    envvar=f"{PREFIX}CONFIG",
    show_envvar=True,
    help="Settings of the audit service; else those of the home (config/audit.toml), and of TRIPTYCH_*.",
)
@click.option("--retention-user", help="Role that may detach and drop months, when the settings do not name it.")
@click.option("--retention-password-file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--wait", type=Whole(0, 3600), default=60, show_default=True, help="Seconds for a checkpoint.")
@click.option("--delete-expired", is_flag=True, help="Also delete archives whose class has expired.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def retire(
    *, home: Path, before: str, folder: Path, config: Path | None, retention_user: str | None,
    retention_password_file: Path | None, wait: int, delete_expired: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Retire the months before one: manifest, checkpoint, archives that were read back; only then the entries go."""
    try:
        month = datetime.strptime(before, "%Y-%m").date()  # noqa: DTZ007 - a month has no time zone
    except ValueError:
        raise click.UsageError(f"--before: {before!r} is no month; give for instance 2026-08") from None
    settings = _settings(config or Home(home).path / "config" / "audit.toml", retention_user, retention_password_file)
    try:
        asyncio.run(_run(settings, folder, month, wait=wait, delete_expired=delete_expired, dry_run=dry_run))
    except Bad as bad:
        raise click.ClickException(f"{bad.verdict}: {bad.text}; nothing was taken out of the log") from None
    except NotCovered as waiting:
        raise click.ClickException(f"{waiting}; is the audit service running? Run this again to go on") from None
    except (faults.Fault, asyncpg.PostgresError, VaultRefused, OSError) as error:
        raise click.ClickException(f"{error}; run this again to go on where it stopped") from None


def _settings(file: Path, user: str | None, password_file: Path | None) -> AuditSettings:
    """Read the settings, and that the passwords are there: running it again does not help where they are missing."""
    found = {f"{PREFIX}CONFIG": str(file)} if file.is_file() else {}
    lacking = "" if found else f"; {file} does not exist: start the stack once with `triptych up`, or give --config"
    try:
        settings = AuditSettings.load(dict(os.environ) | found)
        if user is not None:
            settings = replace(settings, retention_user=user, retention_password_file=password_file)
        _check(settings)
    except (SettingsInvalid, OSError, ValueError) as error:  # TOML that is none is a ValueError
        raise click.ClickException(f"settings of the audit service: {error}{lacking}") from None
    return settings


def _check(settings: AuditSettings) -> None:
    if not settings.retention_user:
        raise SettingsInvalid("retention_user: no role is named that may retire months; give --retention-user")
    if settings.retention_password_file is None:
        raise SettingsInvalid("retention_password_file: is not set; give --retention-password-file")
    for file in (settings.database_password_file, settings.retention_password_file):
        settings.secret(file)


async def _run(
    settings: AuditSettings, folder: Path, before: date, *, wait: int, delete_expired: bool, dry_run: bool
) -> None:
    async with _opened(settings, folder) as (retirements, keeper):
        planned = await retirements.plan(before)
        for month in planned:
            click.echo(f"{month.name}: {month.entries} entries of {month.logs} logs ({month.state})")
            if not dry_run:
                await _retire(retirements, month, wait)
                click.echo(f"{month.name}: retired; archives in {folder / month.name}")
        if not planned:
            click.echo(f"no month before {before:%Y-%m} is left in the log")
        if delete_expired and not dry_run:
            click.echo(f"{await keeper.delete_archives()} archives deleted")


async def _retire(retirements: Retirements, month: Month, wait: int) -> None:
    for left in range(wait, -1, -1):
        try:
            await retirements.retire(month.begin)
        except NotCovered:
            if not left:
                raise
            await asyncio.sleep(1.0)
        else:
            return


@asynccontextmanager
async def _opened(settings: AuditSettings, folder: Path) -> AsyncIterator[tuple[Retirements, Keeper]]:
    """Open what retiring needs: the service's own database role, the one that may drop, and the key's public half."""
    vault = Vault(settings)
    db = await Database.connect(settings, size=4)
    password = settings.secret(settings.retention_password_file)
    role = await Database.connect(settings, user=settings.retention_user, password=password, size=1)
    try:
        signer = Signer(db=db, vault=vault, origin=settings.origin, seconds=settings.checkpoint_seconds)
        witnessed = settings.witness_dir is not None
        days = settings.keep_days
        retirements = Retirements(db=db, keeper=role, signer=signer, folder=folder, days=days, witnessed=witnessed)
        yield retirements, Keeper(db=db, rules=Rules(days, folder=folder), retirements=retirements)
    finally:
        await role.close()
        await db.close()
        vault.close()
