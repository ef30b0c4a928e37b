"""`triptych doctor`: what is wrong with a stack, and what to do about it."""

import asyncio
from pathlib import Path

import click

from services.cli.stack import checks
from services.cli.stack.homes import Home
from services.cli.up import home_option


@click.command()
@home_option
def doctor(home: Path) -> None:
    """Check a stack and say what to do about each finding; exit code 1 when something is wrong."""
    if not asyncio.run(_examine(Home(home))):
        raise SystemExit(1)


async def _examine(home: Home) -> bool:
    well = True
    async for finding in checks.examine(home):
        well = well and finding.good
        click.echo(f"{'ok   ' if finding.good else 'WRONG'}  {finding.part:<12} {finding.text}")
        if finding.advice:
            click.echo(f"       {'':<12} → {finding.advice}")
    return well
