"""The `triptych` command. A subcommand's module is imported when it is called, so that --help stays fast."""

import errno
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from services.cli import groups
from services.cli.groups import Deferring
from services.cli.stack.faults import StackFault

Answer = TypeVar("Answer")
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write fails with that has no more room; it names no file."""
COMMANDS: Final = {
    "up": "services.cli.up:up",
    "demo": "services.cli.demo.command:demo",
    "doctor": "services.cli.doctor:doctor",
    "provision": "services.cli.provision:provision",
    "migrate": "services.cli.migrate:migrate",
    "serve": "services.cli.serve:serve",
    "bootstrap-admin": "services.cli.accounts:bootstrap_admin",
    "register": "services.cli.accounts:register",
    "verify-email": "services.cli.accounts:verify_email",
    "login": "services.cli.accounts:login",
    "logout": "services.cli.accounts:logout",
    "token": "services.cli.accounts:token",
    "whoami": "services.cli.accounts:whoami",
    "mail": "services.cli.mails:mail",
    "users": "services.cli.people:users",
    "members": "services.cli.people:members",
    "invitations": "services.cli.people:invitations",
    "tenants": "services.cli.tenants:tenants",
    "agents": "services.cli.agents:agents",
    "sessions": "services.cli.security:sessions",
    "factors": "services.cli.security:factors",
    "password": "services.cli.security:password",
    "reauthenticate": "services.cli.security:reauthenticate",
    "security-events": "services.cli.security:security_events",
    "providers": "services.cli.providers:providers",
    "keys": "services.cli.keys:keys",
    "models": "services.cli.models:models",
    "budgets": "services.cli.budgets:budgets",
    "usage": "services.cli.usage:usage",
    "audit": "services.cli.audit:audit",
}
# Shown by --help without importing the command.
SUMMARIES: Final = {
    "up": "Start the whole stack on this machine.",
    "demo": "Show the life of one change, on real servers that are stopped afterwards.",
    "doctor": "Check a stack and say what to do about each finding.",
    "provision": "Prepare an external PostgreSQL and OpenBao for the services.",
    "migrate": "Bring the schemas of a database to their newest revisions.",
    "serve": "Run one service.",
    "bootstrap-admin": "Print a one-time invitation for the first admin of a tenant.",
    "register": "Make an account with an invitation.",
    "verify-email": "Prove an address with the code from the mail.",
    "login": "Log in, and keep the tokens for later commands.",
    "logout": "End the session of the kept tokens, and forget them.",
    "token": "Print an access token that is good now.",
    "whoami": "Say who is logged in.",
    "mail": "List the mails of a development stack, or show one.",
    "users": "People of the tenant, and their accounts.",
    "members": "Members of the tenant: roles, tiers, scores.",
    "invitations": "Ways in for new people.",
    "tenants": "The tenants that you belong to, and the way between them.",
    "agents": "Agents of the tenant, and their credentials.",
    "sessions": "Where you are logged in.",
    "factors": "Your second factors.",
    "password": "Change your password, or get a new one.",
    "reauthenticate": "Show again who you are; it counts for five minutes.",
    "security-events": "Who tried what from where.",
    "providers": "AI providers: the catalogue, prices, how well they do.",
    "keys": "Your keys of AI providers; for the operator, the key that protects them all.",
    "models": "Ask a model, at once or as it writes.",
    "budgets": "What you, others and the tenant may use, and warnings.",
    "usage": "What AI was used and what it cost: tables, CSV, charts.",
    "audit": "Export the audit log, and verify it with or without a server.",
}


class Commands(Deferring):
    """A group whose commands are named in a table."""

    elsewhere = COMMANDS

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Read the arguments up to the command's name; --help and --version write here."""
        return _said(super().make_context, *arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        return _said(super().invoke, ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the summaries of the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in COMMANDS])


def _said(call: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:
    """A file or an output that cannot be written, or a part that there is not, is no defect of ours."""
    try:
        return call(*arguments, **options)
    except StackFault as fault:
        raise click.ClickException(str(fault)) from None
    except OSError as error:
        if error.errno == errno.EPIPE or (error.filename is None and error.errno not in FULL):
            raise  # the first is click's to end quietly
        raise click.ClickException(f"{error.filename or groups.OUTPUT}: {error.strerror}") from None


@click.command(cls=Commands)
@click.version_option(package_name="triptych")
def main() -> None:
    """Triptych: who may use which model, what is in production, what failed, and the proof of it."""


if __name__ == "__main__":
    main()
