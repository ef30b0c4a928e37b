"""`triptych migrate`: bring the schemas of a database to their newest revisions. `triptych up` does so by itself."""

import asyncio
from pathlib import Path

import click

from services.cli.serve import Serving
from services.cli.stack import topology
from services.kit import migrations


@click.command()
@click.option(
    "--database-url", required=True, envvar="TRIPTYCH_DATABASE_URL", help="As triptych_migrator, no password."
)
@click.option(
    "--password-file",
    required=True,
    envvar="TRIPTYCH_DATABASE_PASSWORD_FILE",
    type=click.Path(path_type=Path, exists=True),
)
@click.argument("services", nargs=-1, type=Serving())
def migrate(database_url: str, password_file: Path, services: tuple[topology.Service, ...]) -> None:
    """Migrate all schemas, or those of the SERVICES named."""
    password = password_file.read_text().strip()
    for service in services or topology.read().services:
        changed = asyncio.run(
            migrations.upgrade(
                module=service.module, schema=service.schema, owner=service.owner, url=database_url, password=password
            )
        )
        click.echo(f"{service.schema}: {'migrated' if changed else 'up to date'}")
