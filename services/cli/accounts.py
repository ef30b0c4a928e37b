"""`triptych bootstrap-admin`, `register`, `verify-email`, `login`, `token`, `whoami` and `logout`: getting in.

Tokens are kept in the user's own configuration folder, readable by nobody else. Passwords are asked for, and are never
arguments.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import grpc
from click.core import ParameterSource

from services.cli import advice, secrets
from services.cli.stack.homes import Home, replace
from services.cli.up import home_option
from services.kit import faults
from services.kit.words import Words
from triptych.auth.v1 import auth_service_pb2 as pb, tenant_service_pb2 as tenant_pb, user_service_pb2 as user_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.factor_pb2 import FactorKind
from triptych.auth.v1.tenant_service_pb2_grpc import TenantServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SPARE_SECONDS = 30
"""An access token that ends so soon is renewed first."""
KEPT = {"address", "access_token", "access_expire_time"}
Answer = TypeVar("Answer")

address_option = click.option(
    "--address", metavar="HOST:PORT", help="Plaintext port of the auth service, on loopback; else that of the home."
)


@click.command("bootstrap-admin")
@home_option
@click.option("--tenant", metavar="SLUG", help="Short name of the tenant; made if there is none.")
@click.option("--installation", is_flag=True, help="The tenant of the installation itself, whose admins see its log.")
def bootstrap_admin(home: Path, tenant: str | None, installation: bool) -> None:
    """Print a one-time invitation for the first admin of a tenant, or of the installation.

    \b
    triptych bootstrap-admin --tenant acme
    triptych bootstrap-admin --installation     # reads `triptych audit sources` and the system's log
    """  # noqa: D301 - click's mark
    if (tenant is None) != installation:
        raise click.UsageError("give either --tenant SLUG or --installation")
    operate(home, "bootstrap", *(["--installation"] if tenant is None else ["--tenant", tenant]))


def operate(home: Path, *arguments: str) -> NoReturn:
    """Run the auth service's own program with the configuration of a home, as its operator."""
    config = Home(home).path / "config" / "auth.toml"
    if not config.is_file():
        raise click.ClickException(f"{config} does not exist: start the stack once with `triptych up`")
    command = [sys.executable, "-m", "services.auth", *arguments]
    done = subprocess.run(command, env={**os.environ, "TRIPTYCH_CONFIG": str(config)}, check=False)  # noqa: S603 - our own module
    raise SystemExit(done.returncode)


@click.command()
@home_option
@address_option
@click.option("--invitation", prompt="Invitation", help="Code of the invitation.")
@click.option("--email", "email_address", prompt="E-mail", help="E-mail address.")
@click.option("--name", prompt="Name", help="Name to show.")
@click.option("--password-stdin", "piped", is_flag=True, help="Read the password from standard input, its first line.")
def register(invitation: str, email_address: str, name: str, piped: bool, **where: Any) -> None:
    """Make an account with an invitation."""
    password = secrets.password("Password (15 characters at least)", piped=piped, twice=True)
    request = pb.RegisterRequest(
        invitation_code=invitation,
        email=email_address,
        password=password,
        display_name=name,
        request_id=str(uuid.uuid4()),
    )
    ask(target(**where), lambda channel: AuthServiceStub(channel).Register(request))
    click.echo(f"registered; a mail to {email_address} holds the code for `triptych verify-email CODE`")


@click.command("verify-email")
@home_option
@address_option
@click.argument("code")
def verify_email(home: Path, address: str | None, code: str) -> None:
    """Prove an address with the code from the mail (`triptych mail` shows it in development)."""
    request = pb.VerifyEmailRequest(code=code, request_id=str(uuid.uuid4()))
    ask(target(home, address), lambda channel: AuthServiceStub(channel).VerifyEmail(request))
    click.echo("the address is proven: `triptych login`")


@click.command()
def token() -> None:
    """Print an access token that is good now, for grpcurl and the like."""
    click.echo(kept()["access_token"])


@click.command()
@home_option
@address_option
@click.option("--email", "email_address", prompt="E-mail", help="E-mail address.")
@click.option("--password-stdin", "piped", is_flag=True, help="Read the password from standard input, its first line.")
def login(home: Path, address: str | None, email_address: str, piped: bool) -> None:
    """Log in, and keep the tokens for later commands.

    \b
    pass show triptych | triptych login --email ada@example.com --password-stdin
    """  # noqa: D301 - click's mark
    place = target(home, address)
    password = secrets.password(f"Password for {place}", piped=piped)
    known = f"{home.absolute() if address is None else place} {email_address}"
    request = pb.LoginRequest(
        email=email_address,
        password=password,
        device_name="triptych command line",
        device_token=_stored(tokens_file()).get("devices", {}).get(known, ""),
    )
    answer: Any = ask(place, lambda channel: AuthServiceStub(channel).Login(request))
    if answer.login_ticket:
        answer = _second(place, answer)
    file = keep(tokens_file(), place, answer.tokens, {known: answer.device_token} if answer.device_token else None)
    if address is None:
        replace(file, json.dumps(_stored(file) | {"home": str(home.absolute())}, indent=2) + "\n")
    click.echo(f"logged in as {answer.user.email} in tenant {_tenant(kept(file))}; tokens are in {file}")


@click.command()
def logout() -> None:
    """End the session of the kept tokens, and forget them."""
    document = kept()
    metadata = (("authorization", f"Bearer {document['access_token']}"),)
    request, address = pb.LogoutRequest(request_id=str(uuid.uuid4())), document["address"]
    ask(address, lambda channel: AuthServiceStub(channel).Logout(request, metadata=metadata), again(address))
    tokens_file().unlink()
    click.echo("logged out")


@click.command()
def whoami() -> None:
    """Say who is logged in."""
    document = kept()
    request, address = user_pb.GetUserRequest(), document["address"]
    metadata = (("authorization", f"Bearer {document['access_token']}"),)
    user = ask(
        address, lambda channel: UserServiceStub(channel).GetUser(request, metadata=metadata), again(address)
    ).user
    role = Words(Role).word(user.role)
    click.echo(f"{user.email}  {user.id}  {role}  {_tenant(document)}")


def tokens_file() -> Path:
    """Give the file of the tokens; TRIPTYCH_TOKENS names another."""
    return Path(os.environ.get("TRIPTYCH_TOKENS") or Path(click.get_app_dir("triptych")) / "tokens.json")


def kept(file: Path | None = None) -> dict[str, Any]:
    """Give the tokens that a login kept, new ones when the access token is about to end."""
    file = file or tokens_file()
    if not file.is_file():
        raise click.ClickException("nobody is logged in: `triptych login`")
    document = _stored(file)
    if not document.keys() >= KEPT:
        raise click.ClickException(f"{file} holds no tokens of `triptych login`: log in again")
    document["address"] = _place(document)
    if document["access_expire_time"] - time.time() > SPARE_SECONDS:
        return document
    request, address = pb.RefreshRequest(refresh_token=document["refresh_token"]), document["address"]
    answer = ask(address, lambda channel: AuthServiceStub(channel).Refresh(request), again(address))
    keep(file, address, answer.tokens)
    return kept(file)


def _place(document: dict[str, Any]) -> str:
    """Give the address of the service that gave the tokens: the stack of a home may have got another port since."""
    ports = Home(Path(document["home"])).recall("ports.json") if "home" in document else {}
    return f"127.0.0.1:{ports['auth.plaintext']}" if "auth.plaintext" in ports else str(document["address"])


def again(address: str) -> Callable[[faults.Fault], str]:
    """Say what to do when the service that gave the kept tokens does not take them, or does not answer."""

    def helping(fault: faults.Fault) -> str:
        if fault.reason == "REAUTHENTICATION_REQUIRED":
            return ": `triptych reauthenticate`"
        whose = f"; the kept tokens are of the auth service at {address}"
        if isinstance(fault, faults.Unavailable):
            if not advice.starting(fault):  # the service answers, and lacks what it needs
                return f"; `triptych doctor` says what is wrong{whose}"
            return f"{whose}: {advice.START}, or wait a moment; `triptych login --home DIRECTORY` goes to another"
        if not isinstance(fault, faults.Unauthenticated) or fault.reason == "LOGIN_FAILED":
            return ""
        return f"{whose}, and have ended: log in again with `triptych login`"

    return helping


def _second(place: str, answer: pb.LoginResponse) -> pb.CompleteLoginResponse:
    """Ask for a second factor and end the login with it."""
    if not {FactorKind.FACTOR_KIND_TOTP, FactorKind.FACTOR_KIND_RECOVERY_CODE} & set(answer.factors):
        raise click.ClickException("this account has a passkey and no codes: log in where the passkey is")
    code = secrets.asked("Code from your app, or a recovery code").strip()
    request = pb.CompleteLoginRequest(login_ticket=answer.login_ticket)
    if len(code) == 6:
        request.totp_code = code
    else:
        request.recovery_code = code
    return ask(place, lambda channel: AuthServiceStub(channel).CompleteLogin(request))


def _stored(file: Path) -> dict[str, Any]:
    """Give what is kept, or nothing."""
    if not file.is_file():
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # a login writes it anew
        return {}
    return document if isinstance(document, dict) else {}


def _tenant(document: dict[str, Any]) -> str:
    """Give the slug and id of the tenant that the kept tokens are good in."""
    metadata = (("authorization", f"Bearer {document['access_token']}"),)
    request, address = tenant_pb.GetTenantRequest(), document["address"]
    found = ask(
        address, lambda channel: TenantServiceStub(channel).GetTenant(request, metadata=metadata), again(address)
    ).tenant
    return f"{found.slug} ({found.id})"


def meant(home: Path) -> Path:
    """Give the home that is meant: where none is named, and there is no stack in this folder, that of the login."""
    login = _stored(tokens_file()).get("home")
    named = click.get_current_context().get_parameter_source("home") is not ParameterSource.DEFAULT
    return Path(login) if login and not named and not Home(home).has("ports.json") else home


def target(home: Path, address: str | None, service: str = "auth") -> str:
    """Give the address to call; a password must not leave this machine in clear."""
    if address is None:
        ports = Home(home).recall("ports.json")
        if f"{service}.plaintext" not in ports:
            raise click.ClickException(never(home))
        address = f"127.0.0.1:{ports[f'{service}.plaintext']}"
    if address.rpartition(":")[0] not in LOOPBACK:
        raise click.ClickException(f"{address} is not on this machine: forward its port (ssh -L) and use 127.0.0.1")
    return address


def never(home: Path) -> str:
    """Say that there is nothing in a home."""
    return f"no stack was ever started in {home}: name one with --home or --address"


def ask(
    target: str,
    call: Callable[[grpc.aio.Channel], Awaitable[Answer]],
    helping: Callable[[faults.Fault], str] = advice.starting,
) -> Answer:
    """Call the service, and say in its own words what went wrong."""

    async def answer() -> Answer:
        async with grpc.aio.insecure_channel(target) as channel:
            return await call(channel)

    try:
        return asyncio.run(answer())
    except grpc.aio.AioRpcError as error:
        fault = faults.from_error(error, service=f"the auth service at {target}")
        wrong = advice.listening(error)
        raise click.ClickException(f"{fault.text} ({fault.reason}){helping(fault)}{wrong}") from None


def keep(file: Path, target: str, tokens: pb.Tokens, devices: dict[str, str] | None = None) -> Path:
    """Keep tokens, readable by nobody else; what makes this device known stays from one login to the next."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = _stored(file)
    document = {
        "devices": before.get("devices", {}) | (devices or {}),
        "address": target,
        "access_token": tokens.access_token,
        "access_expire_time": tokens.access_expire_time.seconds,
        "refresh_token": tokens.refresh_token,
    }
    if "home" in before and target in {before.get("address"), _place(before)}:
        document["home"] = before["home"]
    return replace(file, json.dumps(document, indent=2) + "\n")
