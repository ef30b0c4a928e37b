"""Names in the place of ids: people by their address, agents, providers and keys by what they are called."""

import re
import uuid
from collections.abc import Iterable
from typing import Any, Final

import click

from services.cli import callers
from services.cli.links import Link
from triptych.auth.v1 import agent_service_pb2 as agent_pb, user_service_pb2 as user_pb
from triptych.auth.v1.agent_service_pb2_grpc import AgentServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.providers.v1 import key_service_pb2 as key_pb, provider_service_pb2 as provider_pb
from triptych.providers.v1.key_pb2 import Key, KeyState
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub

MOST: Final = 100_000
ENDED: Final = (KeyState.KEY_STATE_REVOKED, KeyState.KEY_STATE_EXPIRED)
KINDS: Final = {
    "user": PrincipalKind.PRINCIPAL_KIND_USER,
    "agent": PrincipalKind.PRINCIPAL_KIND_AGENT,
    "service": PrincipalKind.PRINCIPAL_KIND_SERVICE,
}
_NAME = re.compile(r"[a-z][a-z0-9-]{1,62}")


class Person(click.ParamType[str]):
    """The id of a person, who may be named by their address as well."""

    name = "id|address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Ask for the id where an address is given."""
        return person(value) if "@" in value else str(value)


class Program(click.ParamType[str]):
    """The id of an agent, which may be named by its name as well."""

    name = "id|name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Ask for the id where a name is given."""
        return str(value) if _is_id(str(value)) else _agent(str(value))


def person(address: str) -> str:
    """Give the id of the person with this address."""
    request = user_pb.ListUsersRequest(query=address)
    for user in callers.listed(UserServiceStub, "ListUsers", request, MOST):
        if user.email.casefold() == address.casefold():
            return str(user.id)
    raise click.ClickException(f"nobody here has the address {address}: `triptych users list` shows who there is")


def owner(text: str) -> Principal:
    """Give who is meant by ada@example.com, agent:NAME, or KIND:ID."""
    if "@" in text:
        return Principal(kind=KINDS["user"], id=person(text))
    kind, separator, identity = text.partition(":")
    if not separator and _is_id(text):
        return Principal(kind=KINDS["user"], id=text)
    if kind not in KINDS or not identity:
        raise click.UsageError(f"{text!r} is nobody: give ada@example.com, user:ID, agent:NAME or agent:ID")
    if kind == "agent" and not _is_id(identity):
        identity = _agent(identity)
    return Principal(kind=KINDS[kind], id=identity)


def provider(link: Link, text: str, *, archived: bool = False) -> Provider:
    """Give the provider of this name or id. What can be neither is not repeated: it may be a key in the wrong place."""
    if _is_id(text):
        request = provider_pb.GetProviderRequest(provider_id=text)
        return link.call(ProviderServiceStub, "GetProvider", request).provider  # type: ignore[no-any-return]
    for found in providers(link, archived=True):
        if found.name == text:
            if found.HasField("archive_time") and not archived:
                raise click.ClickException(f"{text} is archived for good: `triptych providers list` shows the others")
            return found
    shown = f"there is no provider {text}" if _NAME.fullmatch(text) else "that is no name or id of a provider"
    raise click.ClickException(f"{shown}: `triptych providers list` shows those that there are")


def providers(link: Link, *, archived: bool = False) -> Iterable[Provider]:
    """Give all providers, in order of name."""
    request = provider_pb.ListProvidersRequest(show_archived=archived)
    return link.listed(ProviderServiceStub, "ListProviders", request, MOST)


def key(link: Link, text: str) -> Key:
    """Give the key of this id, or the only live one with this label."""
    if _is_id(text):
        return link.call(KeyServiceStub, "GetKey", key_pb.GetKeyRequest(key_id=text)).key  # type: ignore[no-any-return]
    listed = link.listed(KeyServiceStub, "ListKeys", key_pb.ListKeysRequest(), MOST)
    found: list[Key] = [key for key in listed if key.label == text and key.state not in ENDED]
    current = [key for key in found if key.state != KeyState.KEY_STATE_ROTATING] or found
    if len(current) == 1:
        return current[0]
    if not current:
        raise click.ClickException("there is no live key with this id or label: `triptych keys list` shows them")
    ids = ", ".join(key.id for key in current)
    raise click.ClickException(f"{len(current)} keys are called {text}: name one by its id: {ids}")


def _agent(name: str) -> str:
    listed = callers.listed(AgentServiceStub, "ListAgents", agent_pb.ListAgentsRequest(), MOST)
    found = [str(agent.id) for agent in listed if agent.display_name == name]
    if len(found) > 1:
        raise click.ClickException(f"{len(found)} agents are called {name}: name one by its id: {', '.join(found)}")
    if not found:
        raise click.ClickException(f"no agent is called {name}: `triptych agents list` shows those that there are")
    return found[0]


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
