"""`triptych keys`: one's own API keys of providers. A key goes in from a prompt or a pipe and never comes out.

What the operator does with the key that protects them all is in keks.py.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import click
from google.protobuf.timestamp_pb2 import Timestamp

from services.cli import callers, names, secrets
from services.cli.callers import json_option, limit_option
from services.cli.choices import Moment
from services.cli.groups import Deferring
from services.cli.links import Link, Refused, providing
from services.kit.words import Words
from triptych.providers.v1 import key_service_pb2 as pb
from triptych.providers.v1.key_pb2 import Key, KeyState
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub

OPERATOR = {
    "status": ("services.cli.keks:status", "Operator: show the versions of the key that protects all keys."),
    "rotate-kek": ("services.cli.keks:rotate_kek", "Operator: make a new version of it; then `rewrap`."),
    "rewrap": ("services.cli.keks:rewrap", "Operator: move all data keys to the newest version."),
    "retire": ("services.cli.keks:retire", "Operator: refuse older versions."),
}
"""Commands of another module, which is imported when one is called, and what --help says of them."""
ALWAYS = ("use_count",)


class Keys(Deferring):
    """Commands for everybody here, those for the operator elsewhere."""

    elsewhere: ClassVar[Mapping[str, str]] = {name: place for name, (place, _) in OPERATOR.items()}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write what each does."""
        own = [(name, command.get_short_help_str(90)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*own, *((name, text) for name, (_, text) in OPERATOR.items())])


@click.group(cls=Keys)
def keys() -> None:
    """Your keys of AI providers; and, for the operator, the key that protects them all.

    \b
    triptych keys store house --label laptop         # asks for the key
    triptych keys list
    vault read -field=key … | triptych keys rotate laptop --key-stdin
    """  # noqa: D301 - click's mark


@keys.command()
@click.argument("provider")
@click.option("--label", default="default", show_default=True, help="Your name for it.")
@click.option(
    "--expires", type=Moment(), metavar="TIME", help="When it shall end: 2026-12-31, or a moment; else never."
)
@click.option("--platform", is_flag=True, help="Store it for everybody in the tenant (admins).")
@secrets.guarded
@json_option
@providing
def store(
    link: Link, *, provider: str, label: str, expires: Timestamp | None, platform: bool, piped: bool, as_json: bool
) -> None:
    """Store a key for PROVIDER, by name or id, once the provider has shown that it takes it.

    \b
    triptych keys store house --label laptop --expires 2026-12-31
    pass show house | triptych keys store house --key-stdin
    """  # noqa: D301 - click's mark
    found = names.provider(link, provider)
    request = pb.StoreKeyRequest(
        provider_id=found.id, label=label, api_key=secrets.key(piped=piped), expire_time=expires, platform=platform
    )
    callers.show(link.call(KeyServiceStub, "StoreKey", request).key, as_json=as_json, always=ALWAYS)


@keys.command("list")
@click.option("--all", "ended", is_flag=True, help="Those that were revoked or have expired too.")
@limit_option
@json_option
@providing
def list_keys(link: Link, *, ended: bool, limit: int, as_json: bool) -> None:
    """List your keys, as an admin the tenant's, newest first."""
    found = link.listed(KeyServiceStub, "ListKeys", pb.ListKeysRequest(), limit if ended else names.MOST)
    live = found if ended else _first((key for key in found if key.state not in names.ENDED), limit)
    called = {} if as_json else {item.id: item.name for item in names.providers(link, archived=True)}
    columns = {
        "label": None,
        "provider": lambda key: called.get(key.provider_id, key.provider_id),
        "key": _shown,
        "state": None,
        "use_count": None,
        "last_use_time": None,
        "expire_time": None,
        "owner": None,
        "id": None,
    }
    callers.table(live, columns, as_json=as_json)


@keys.command()
@click.argument("key")
@json_option
@providing
def show(link: Link, *, key: str, as_json: bool) -> None:
    """Show one key, by label or id: all of it but the key itself."""
    callers.show(names.key(link, key), as_json=as_json, always=ALWAYS)


@keys.command()
@click.argument("key")
@secrets.guarded
@json_option
@providing
def rotate(link: Link, *, key: str, piped: bool, as_json: bool) -> None:
    """Put a new value in the place of KEY, by label or id; the old one opens for 24 hours more.

    One that has leaked must not have that time: `triptych keys revoke`, then `triptych keys store`.
    """
    now = names.key(link, key)
    request = pb.RotateKeyRequest(key_id=now.id, api_key=secrets.key(piped=piped), etag=now.etag)
    answer = link.call(KeyServiceStub, "RotateKey", request)
    callers.show(answer.key, as_json=as_json, always=ALWAYS)
    if not as_json:
        until = callers.moment(answer.previous.expire_time)
        click.echo(f"the one before, {answer.previous.id}, is {_state(answer.previous)} and ends at {until}", err=True)


@keys.command()
@click.argument("key")
@json_option
@providing
def validate(link: Link, *, key: str, as_json: bool) -> None:
    """Ask the provider now whether it still takes KEY, by label or id."""
    request = pb.ValidateKeyRequest(key_id=names.key(link, key).id)
    callers.show(link.call(KeyServiceStub, "ValidateKey", request).key, as_json=as_json, always=ALWAYS)


@keys.command()
@click.argument("key")
@click.option("--with-predecessors", "thorough", is_flag=True, help="Those that it replaced too, which open for 24 h.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@providing
def revoke(link: Link, *, key: str, thorough: bool, yes: bool, as_json: bool) -> None:
    """End KEY, by label or id, at once and for good; what it was sealed with is destroyed.

    \b
    triptych keys revoke laptop --with-predecessors     # after a rotation: nothing is left that opens
    """  # noqa: D301 - click's mark
    now = names.key(link, key)
    before = _predecessors(link, now)
    ended = [*before, now] if thorough else [now]
    if not yes:
        called = " and ".join(_shown(key) for key in reversed(ended))
        click.confirm(f"Nothing can use {now.label} ({called}) any more. Revoke it?", abort=True)
    for place, one in enumerate(ended):  # the oldest first: none of them is ever the one that is used
        with _told_of(ended[place:] if place else []):
            answer = link.call(KeyServiceStub, "RevokeKey", pb.RevokeKeyRequest(key_id=one.id))
        callers.show(answer.key, as_json=as_json, always=ALWAYS)
    if not thorough:
        _warn(before)


@contextmanager
def _told_of(left: list[Key]) -> Iterator[None]:
    """Say which keys are left when some were revoked already and the next is not."""
    try:
        yield
    except Refused as refused:
        if not left:
            raise
        called = " and ".join(_shown(key) for key in reversed(left))
        raise click.ClickException(f"{refused.message}; {called} may be left: call it again") from None


def _predecessors(link: Link, key: Key) -> list[Key]:
    """Give those that this key took the place of, directly or not, and that open for the rest of their 24 hours."""
    found = link.listed(KeyServiceStub, "ListKeys", pb.ListKeysRequest(), names.MOST)
    return sorted((other for other in found if _is_before(other, key)), key=_age)


def _is_before(other: Key, key: Key) -> bool:
    same = all(getattr(other, name) == getattr(key, name) for name in ("owner", "provider_id", "label"))
    return same and other.state == KeyState.KEY_STATE_ROTATING and _age(other) < _age(key)


def _age(key: Key) -> int:
    return key.create_time.ToNanoseconds()


def _warn(before: list[Key]) -> None:
    """Say that a key before is used again: its 24 hours are not over, and nothing else is there now."""
    for key in before:
        until = callers.moment(key.expire_time)
        click.echo(f"the one before is used until {until}; to end that: `triptych keys revoke {key.id}`", err=True)


def _first(found: Any, limit: int) -> Any:
    return (key for key, _ in zip(found, range(limit), strict=False))


def _shown(key: Key) -> str:
    return f"{key.prefix}…{key.last_four}"


def _state(key: Key) -> str:
    return Words(KeyState).word(key.state)
