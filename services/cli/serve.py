"""`triptych serve NAME`: one service in this process, with the settings of its environment (see docs/operations.md)."""

import runpy
from typing import Any

import click

from services.cli.stack import topology
from services.cli.stack.faults import StackFault


class Serving(click.ParamType[topology.Service]):
    """A service, by its name."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> topology.Service:
        """Look it up."""
        try:
            return topology.read().service(str(value))
        except StackFault as fault:
            self.fail(str(fault), param, ctx)


@click.command()
@click.argument("service", type=Serving(), metavar="NAME")
def serve(service: topology.Service) -> None:
    """Run the service NAME; its settings come from TRIPTYCH_CONFIG and TRIPTYCH_*."""
    runpy.run_module(service.module, run_name="__main__", alter_sys=True)
