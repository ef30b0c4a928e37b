"""Groups of commands some of which stand in other modules: those are imported when they are called, not before."""

import importlib
from collections.abc import Mapping
from typing import ClassVar

import click

OUTPUT = "what was to be written"
"""The name of a file whose name the system does not tell, such as standard output."""


class Deferring(click.Group):
    """A group with commands elsewhere."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Where each of them is: `module:attribute`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List all commands, those elsewhere last."""
        return [*super().list_commands(ctx), *self.elsewhere]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command that is elsewhere."""
        if cmd_name not in self.elsewhere:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.elsewhere[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; click would compare what is mistyped with those that stand here alone."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=self.list_commands(ctx), ctx=ctx) from None
