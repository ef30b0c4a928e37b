"""How the demo speaks: numbered steps, what was called, what came back, what was refused and why."""

import time

import click

from services.kit import faults


class StepFailed(Exception):
    """A step did not do what it must; the text says what was expected."""


class Narrator:
    """Prints the story as it happens."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.step = ""

    def begin(self, number: int, title: str) -> None:
        """Begin a step."""
        self.step = f"{number}. {title}"
        seconds = time.monotonic() - self._began
        click.echo()
        click.secho(f"{self.step}", bold=True, nl=False)
        click.secho(f"   (at {seconds:.1f} s)", dim=True)

    def say(self, text: str) -> None:
        """Say what is about to happen, and why."""
        click.echo(f"   {text}")

    def call(self, who: str, rpc: str, what: str = "") -> None:
        """Say what is called."""
        click.echo(f"   {who} -> {click.style(rpc, fg='cyan')} {what}".rstrip())

    def got(self, text: str) -> None:
        """Say what came back."""
        for line in text.splitlines():
            click.echo(f"      {line}")

    def refused(self, fault: faults.Fault) -> None:
        """Say what was refused and why."""
        click.echo(f"      {click.style('refused', fg='yellow')} {fault.code.name} {fault.reason}: {fault.text}")

    def check(self, holds: bool, expected: str) -> None:
        """Stop the demo unless this holds."""
        if not holds:
            raise StepFailed(expected)
