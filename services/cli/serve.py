"""`triptych serve NAME`: one service in this process, with the settings of its environment (see docs/operations.md)."""

import runpy

import click

from services.cli.stack import topology


@click.command()
@click.argument("name")
def serve(name: str) -> None:
    """Run the service NAME; its settings come from TRIPTYCH_CONFIG and TRIPTYCH_*."""
    runpy.run_module(topology.read().service(name).module, run_name="__main__", alter_sys=True)
