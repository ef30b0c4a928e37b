"""`triptych sessions`, `factors`, `password`, `reauthenticate` and `security-events`: one's own account."""

from typing import Any

import click
import segno

from services.cli import accounts, callers, secrets
from services.cli.callers import json_option, limit_option
from services.cli.names import Person
from services.cli.up import home_option
from triptych.auth.v1 import (
    auth_service_pb2 as auth_pb,
    factor_service_pb2 as factor_pb,
    security_event_service_pb2 as event_pb,
    session_service_pb2 as session_pb,
)
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from triptych.auth.v1.security_event_service_pb2_grpc import SecurityEventServiceStub
from triptych.auth.v1.session_service_pb2_grpc import SessionServiceStub


@click.group()
def sessions() -> None:
    """Where you are logged in."""


@sessions.command("list")
@click.option("--user", "user_id", type=Person(), default="", help="Somebody else's, as an admin.")
@limit_option
@json_option
def list_sessions(user_id: str, limit: int, as_json: bool) -> None:
    """List sessions, newest first."""
    request = session_pb.ListSessionsRequest(user_id=user_id)
    found = callers.listed(SessionServiceStub, "ListSessions", request, limit)
    columns = ("id", "device_name", "ip_address", "current", "create_time", "last_use_time", "end")
    callers.table(found, columns, as_json=as_json)


@sessions.command("revoke")
@click.argument("session_id")
def revoke_session(session_id: str) -> None:
    """End a session, and its tokens within a second."""
    callers.call(SessionServiceStub, "RevokeSession", session_pb.RevokeSessionRequest(session_id=session_id))
    click.echo("revoked")


@sessions.command("revoke-all")
@click.option("--user", "user_id", type=Person(), default="", help="Somebody else's, as an admin.")
@click.option("--keep-current", is_flag=True, help="All but the one that this command uses.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke_all(user_id: str, keep_current: bool, yes: bool) -> None:
    """End all sessions in this tenant."""
    if not yes:
        whose = "All your sessions" if not user_id else "All sessions of this person"
        click.confirm(f"{whose} end{', but this one' if keep_current else ''}. Go on?", abort=True)
    request = session_pb.RevokeAllSessionsRequest(user_id=user_id, keep_current=keep_current)
    click.echo(f"{callers.call(SessionServiceStub, 'RevokeAllSessions', request).revoked} revoked")


@click.command()
def reauthenticate() -> None:
    """Show again who you are; it counts for five minutes."""
    password = secrets.typed("Password")
    factors = callers.call(FactorServiceStub, "GetFactors", factor_pb.GetFactorsRequest()).factors
    code = secrets.asked("Code") if factors.totp or factors.recovery_codes_left else ""
    callers.call(AuthServiceStub, "Reauthenticate", auth_pb.ReauthenticateRequest(password=password, code=code))
    click.echo("good for five minutes")


@click.group()
def factors() -> None:
    """Your second factors."""


@factors.command("show")
@json_option
def show_factors(as_json: bool) -> None:
    """Show what you have."""
    answer = callers.call(FactorServiceStub, "GetFactors", factor_pb.GetFactorsRequest())
    if not answer.factors.ListFields() and not as_json:
        click.echo("none: `triptych factors totp` makes one")
        return
    callers.show(answer.factors, as_json=as_json)


@factors.command("totp")
def enroll_totp() -> None:
    """Set up codes from an app (needs `triptych reauthenticate`)."""
    secret = callers.call(FactorServiceStub, "EnrollTotp", factor_pb.EnrollTotpRequest())
    segno.make(secret.uri, error="m").terminal(compact=True)
    click.echo(f"scan it, or type the secret into the app: {secret.secret}")
    request = factor_pb.ConfirmTotpRequest(code=secrets.asked("Code from the app"))
    _codes(callers.call(FactorServiceStub, "ConfirmTotp", request).recovery_codes)


@factors.command("disable-totp")
def disable_totp() -> None:
    """Remove the app's codes (needs `triptych reauthenticate`)."""
    callers.call(FactorServiceStub, "DisableTotp", factor_pb.DisableTotpRequest())
    click.echo("removed")


@factors.command("recovery-codes")
def recovery_codes() -> None:
    """Print ten new recovery codes; older ones end (needs `triptych reauthenticate`)."""
    request = factor_pb.RegenerateRecoveryCodesRequest()
    _codes(callers.call(FactorServiceStub, "RegenerateRecoveryCodes", request).recovery_codes)


@click.group()
def password() -> None:
    """Change your password, or get a new one."""


@password.command("change")
def change_password() -> None:
    """Set a new password with the old one; all your sessions end, this one goes on anew."""
    old = secrets.typed("Old password")
    new = secrets.typed("New password (15 characters at least)", twice=True)
    request = auth_pb.ChangePasswordRequest(old_password=old, new_password=new)
    answer = callers.call(AuthServiceStub, "ChangePassword", request)
    accounts.keep(accounts.tokens_file(), accounts.kept()["address"], answer.tokens)
    click.echo("changed")


@password.command("forgot")
@home_option
@accounts.address_option
@click.option("--email", "email_address", prompt="E-mail", help="E-mail address.")
def forgot_password(email_address: str, **where: Any) -> None:
    """Ask for a mail with a code to set a new one."""
    request = auth_pb.RequestPasswordResetRequest(email=email_address)
    accounts.ask(accounts.target(**where), lambda channel: AuthServiceStub(channel).RequestPasswordReset(request))
    click.echo("if there is such an account, a mail with a code is under way: `triptych password reset CODE`")


@password.command("reset")
@home_option
@accounts.address_option
@click.argument("code")
def reset_password(code: str, **where: Any) -> None:
    """Set a new password with the code from the mail; all your sessions end."""
    new = secrets.typed("New password (15 characters at least)", twice=True)
    request = auth_pb.ResetPasswordRequest(code=code, new_password=new)
    accounts.ask(accounts.target(**where), lambda channel: AuthServiceStub(channel).ResetPassword(request))
    click.echo("set: `triptych login`")


@click.command("security-events")
@click.option("--action", default="", help="Only this action; `auth.session.*` for all that begin so.")
@click.option("--user", "user_id", type=Person(), default="", help="Only this person's.")
@limit_option
@json_option
def security_events(action: str, user_id: str, limit: int, as_json: bool) -> None:
    """List who tried what from where; as no admin only your own."""
    request = event_pb.ListSecurityEventsRequest(action=action, user_id=user_id)
    found = callers.listed(SecurityEventServiceStub, "ListSecurityEvents", request, limit)
    callers.table(found, ("create_time", "action", "status", "user_id", "ip_address", "user_agent"), as_json=as_json)


def _codes(codes: Any) -> None:
    if not codes:
        return
    click.echo("keep these recovery codes; each is good once, and they are not shown again:")
    for code in codes:
        click.echo(f"  {code}")
