"""The commands that the documents show can be typed as they stand: they are there, and so are their options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from services.cli.main import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/walkthrough-keys.md")


def commands() -> Iterator[str]:
    """Give what stands after `triptych` in the shell blocks."""
    for name in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL):
            text = re.sub(
                r"\\\n\s*|\s+#.*$", lambda found: " " if found[0][0] == "\\" else "", block, flags=re.MULTILINE
            )
            yield from re.findall(r"triptych ((?:\"[^\"]*\"|'[^']*'|[^|&;)\"'\n])+)", text)


def helped(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Give all commands."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from helped(command, (*path, name))
        else:
            yield (*path, name)


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """Give the command that is meant and its arguments."""
    command: click.Command = main
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("text", list(dict.fromkeys(commands())))
def test_what_a_document_shows_can_be_typed(text: str) -> None:
    command, words = resolve(shlex.split(text.strip()))
    assert not isinstance(command, click.Group)
    command.make_parser(click.Context(command)).parse_args(words)


@pytest.mark.parametrize("name", ["providers", "keys", "models", "budgets"])
def test_every_command_says_what_it_does(name: str) -> None:
    group, _ = resolve([name])
    assert isinstance(group, click.Group)
    for path in helped(group, (name,)):
        command, _ = resolve(list(path))
        assert command.get_short_help_str(), path
        assert all(
            option.help for option in command.params if isinstance(option, click.Option) and not option.hidden
        ), path
