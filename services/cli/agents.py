"""`triptych agents`: programs that act under their own name, and their credentials."""

from importlib.resources import files
from typing import Any

import click

from services.cli import accounts, callers, secrets
from services.cli.callers import json_option, limit_option
from services.cli.names import Program
from services.cli.numbers import Whole
from services.cli.up import home_option
from services.kit.words import Words
from triptych.auth.v1 import agent_credential_service_pb2 as credential_pb, agent_service_pb2 as pb
from triptych.auth.v1.agent_credential_pb2 import AgentCredential
from triptych.auth.v1.agent_credential_service_pb2_grpc import AgentCredentialServiceStub
from triptych.auth.v1.agent_pb2 import Agent, AgentLevel, AgentStatus
from triptych.auth.v1.agent_service_pb2_grpc import AgentServiceStub

_CREDENTIAL = ("id", "display_name", "prefix", "scopes", "expire_time", "revoke_time", "last_use_time")


@click.group()
def agents() -> None:
    """Agents of the tenant, and their credentials."""


@agents.command("create")
@click.argument("name")
@click.option("--level", type=click.Choice(["organization", "project"]), default="project", show_default=True)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="Permission that it may have (`triptych agents scopes` lists them); repeat it for more.",
)
@click.option("--description", default="", help="What it is for.")
@json_option
def create_agent(name: str, level: str, scopes: tuple[str, ...], description: str, as_json: bool) -> None:
    """Make an agent; `triptych agents issue` gives it a secret."""
    given = Agent(
        display_name=name,
        level=Words(AgentLevel).number(level),
        scopes=scopes,
        description=description,
    )
    callers.show(
        callers.call(AgentServiceStub, "CreateAgent", pb.CreateAgentRequest(agent=given)).agent, as_json=as_json
    )


@agents.command("list")
@limit_option
@json_option
def list_agents(limit: int, as_json: bool) -> None:
    """List agents that are not terminated, newest first."""
    found = callers.listed(AgentServiceStub, "ListAgents", pb.ListAgentsRequest(), limit)
    callers.table(found, ("id", "display_name", "level", "status", "scopes"), as_json=as_json)


@agents.command("status")
@click.argument("agent_id", metavar="AGENT", type=Program())
@click.argument("status", type=click.Choice(["active", "probation", "inactive", "terminated"]))
@click.option("--reason", required=True, help="Why; it goes into the audit log.")
@json_option
def set_status(agent_id: str, status: str, reason: str, as_json: bool) -> None:
    """Say whether an agent may act; inactive and terminated end its tokens within a second."""
    request = pb.SetAgentStatusRequest(agent_id=agent_id, status=Words(AgentStatus).number(status), reason=reason)
    callers.show(callers.call(AgentServiceStub, "SetAgentStatus", request).agent, as_json=as_json)


@agents.command("issue")
@click.argument("agent_id", metavar="AGENT", type=Program())
@click.option("--name", default="", help="Name of the credential.")
@click.option("--scope", "scopes", multiple=True, help="A part of the agent's scopes; else all of them.")
@click.option("--days", type=Whole(1, 90), default=90, show_default=True, help="How long it is good.")
def issue(agent_id: str, name: str, scopes: tuple[str, ...], days: int) -> None:
    """Make a credential and print its secret, once."""
    given = AgentCredential(
        agent_id=agent_id,
        display_name=name,
        scopes=scopes,
        expire_time=callers.ahead(days),
    )
    request = credential_pb.CreateAgentCredentialRequest(agent_credential=given)
    click.echo(callers.call(AgentCredentialServiceStub, "CreateAgentCredential", request).secret)


@agents.command("exchange")
@home_option
@accounts.address_option
@click.option("--secret-stdin", "piped", is_flag=True, help="Read the secret from standard input, its first line.")
def exchange(piped: bool, **where: Any) -> None:
    """Ask for a secret, and print an access token for it, good for ten minutes; for trying what an agent may do."""
    option = "--secret-stdin"
    secret = secrets.read(option, whole=False).strip() if piped else secrets.typed("Secret", option=option)
    request = credential_pb.ExchangeAgentCredentialRequest(secret=secret)
    answer = accounts.ask(
        accounts.target(**where),
        lambda channel: AgentCredentialServiceStub(channel).ExchangeAgentCredential(request),
    )
    click.echo(answer.access_token)


@agents.command("scopes")
def list_scopes() -> None:
    """List the permissions that agents can be given."""
    click.echo((files("services.auth") / "scopes.txt").read_text(encoding="utf-8"), nl=False)


@agents.command("credentials")
@click.argument("agent_id", metavar="AGENT", type=Program())
@limit_option
@json_option
def list_credentials(agent_id: str, limit: int, as_json: bool) -> None:
    """List the credentials of an agent, newest first."""
    request = credential_pb.ListAgentCredentialsRequest(agent_id=agent_id)
    found = callers.listed(AgentCredentialServiceStub, "ListAgentCredentials", request, limit)
    callers.table(found, _CREDENTIAL, as_json=as_json)


@agents.command("rotate")
@click.argument("credential_id")
def rotate(credential_id: str) -> None:
    """Replace a credential and print the new secret, once; the old one stays good for 24 hours."""
    request = credential_pb.RotateAgentCredentialRequest(credential_id=credential_id)
    click.echo(callers.call(AgentCredentialServiceStub, "RotateAgentCredential", request).secret)


@agents.command("revoke")
@click.argument("credential_id")
def revoke(credential_id: str) -> None:
    """End a credential and its tokens at once."""
    request = credential_pb.RevokeAgentCredentialRequest(credential_id=credential_id)
    callers.call(AgentCredentialServiceStub, "RevokeAgentCredential", request)
    click.echo("revoked")


@agents.command("uses")
@click.argument("credential_id")
@limit_option
@json_option
def uses(credential_id: str, limit: int, as_json: bool) -> None:
    """List attempts with a credential, newest first."""
    request = credential_pb.ListAgentCredentialUsesRequest(credential_id=credential_id)
    found = callers.listed(AgentCredentialServiceStub, "ListAgentCredentialUses", request, limit)
    callers.table(found, ("create_time", "success", "problem", "ip_address", "user_agent"), as_json=as_json)
