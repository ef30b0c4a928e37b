"""Secrets come from a prompt that does not show them, or from standard input; never from an argument.

What is an argument can be read in the list of processes by everybody on the machine, and stays in the shell's history.
"""

import getpass
import re
import sys
import warnings
from typing import Any, Final

import click

LEAKED: Final = (
    "a key is never an argument: everybody on this machine can read it in the list of processes, and it stays in the "
    "shell's history. Leave it out and type it when you are asked, or pipe it in with --key-stdin. Treat the one that "
    "you just gave as leaked: revoke it at the provider"
)
_KEY = re.compile(r"[!-~]{8,512}")


def guarded(command: Any) -> Any:
    """Take keys that are given as arguments only to refuse them, without repeating them."""
    command = click.option("--key", "--api-key", "leaked", expose_value=False, hidden=True, callback=_refuse)(command)
    command = click.argument("more", nargs=-1, metavar="", expose_value=False, callback=_refuse)(command)
    return click.option("--key-stdin", "piped", is_flag=True, help="Read the key from standard input.")(command)


def key(*, piped: bool) -> str:
    """Give the key that is typed, unseen, or piped in."""
    text = (read("--key-stdin") if piped else typed("Key", option="--key-stdin")).strip()
    if not _KEY.fullmatch(text):
        raise click.ClickException("a key has 8 to 512 visible ASCII characters without spaces: look at what was given")
    return text


def password(prompt: str, *, piped: bool, twice: bool = False) -> str:
    """Give the password that is typed, unseen, or the first line that is piped in."""
    if piped:
        return read("--password-stdin", whole=False).rstrip("\r\n")
    return typed(prompt, twice=twice, option="--password-stdin")


def typed(prompt: str, *, twice: bool = False, option: str = "") -> str:
    """Ask for something that is not shown; an option, where there is one, takes it from a pipe."""
    return asked(prompt, option, hide_input=True, confirmation_prompt=twice)


def asked(prompt: str, option: str = "", **shape: Any) -> str:
    """Ask, and say it when there is nobody to answer."""
    with warnings.catch_warnings():
        if not sys.stdin.isatty():  # what is piped in is not shown anyway
            warnings.simplefilter("ignore", getpass.GetPassWarning)
        try:
            answer: str = click.prompt(prompt, **shape)
        except click.Abort:
            if sys.stdin.isatty():  # it was Ctrl-C or Ctrl-D
                raise
            instead = f", or pipe it in with {option}" if option else ""
            raise click.ClickException(f"no terminal to ask on: call it in one{instead}") from None
    return answer


def read(option: str, *, whole: bool = True) -> str:
    """Read standard input, or its first line; a terminal would show what is typed."""
    if sys.stdin.isatty():
        raise click.UsageError(f"{option} reads what is piped in: leave it out to be asked")
    return sys.stdin.read() if whole else sys.stdin.readline()


def _refuse(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value:
        raise click.UsageError(LEAKED)
