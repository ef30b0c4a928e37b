"""`triptych mail`: what a development stack sent, which writes its mails into a folder of its home."""

import email
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import click

from services.cli import accounts
from services.cli.numbers import Whole
from services.cli.stack.homes import Home
from services.cli.up import home_option


@click.command()
@home_option
@click.argument("number", type=Whole(min=1), required=False)
def mail(home: Path, number: int | None) -> None:
    """List the mails of a development stack, newest first, or show one by its number."""
    home = accounts.meant(home)
    if not Home(home).has("ports.json"):
        raise click.ClickException(accounts.never(home))
    folder = Home(home).path / "data" / "auth" / "mailbox"
    messages = _messages(sorted(folder.glob("*.eml"), reverse=True))
    if not messages and number is None:
        click.echo(f"no mail yet in {folder}")
    if number is None:
        for index, message in enumerate(messages, start=1):
            click.echo(f"{index:>3}  {message['Date']}  {message['To']}  {message['Subject']}")
        return
    if number > len(messages):
        raise click.ClickException(f"there is no mail {number}: {_count(len(messages))} in {folder}")
    message = messages[number - 1]
    content = message.get_content().replace("\r\n", "\n")
    click.echo(f"To: {message['To']}\nSubject: {message['Subject']}\n\n{content}", nl=False)


def _count(mails: int) -> str:
    return {0: "no mail yet", 1: "there is 1 mail"}.get(mails, f"there are {mails} mails")


def _messages(files: Sequence[Path]) -> list[EmailMessage]:
    return [email.message_from_bytes(file.read_bytes(), EmailMessage, policy=default) for file in files]
