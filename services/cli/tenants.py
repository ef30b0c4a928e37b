"""`triptych tenants`: the tenants that somebody belongs to, the way between them, and what only the operator does."""

from pathlib import Path

import click

from services.cli import accounts, callers
from services.cli.callers import json_option, limit_option
from services.cli.up import home_option
from triptych.auth.v1 import auth_service_pb2 as auth_pb, tenant_service_pb2 as pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.tenant_pb2 import Tenant
from triptych.auth.v1.tenant_service_pb2_grpc import TenantServiceStub


@click.group()
def tenants() -> None:
    """Tenants that you belong to."""


@tenants.command("list")
@limit_option
@json_option
def list_tenants(limit: int, as_json: bool) -> None:
    """List the tenants that you belong to."""
    found = callers.listed(TenantServiceStub, "ListTenants", pb.ListTenantsRequest(), limit)
    callers.table(found, ("tenant_id", "slug", "display_name", "role", "current", "home"), as_json=as_json)


@tenants.command("show")
@json_option
def show_tenant(as_json: bool) -> None:
    """Show the tenant that you are in."""
    callers.show(callers.call(TenantServiceStub, "GetTenant", pb.GetTenantRequest()).tenant, as_json=as_json)


@tenants.command("create")
@click.argument("slug")
@click.option("--name", help="Name to show; else the slug.")
@json_option
def create_tenant(slug: str, name: str | None, as_json: bool) -> None:
    """Make a tenant, with you as its first admin."""
    request = pb.CreateTenantRequest(tenant=Tenant(slug=slug, display_name=name or slug))
    callers.show(callers.call(TenantServiceStub, "CreateTenant", request).tenant, as_json=as_json)


@tenants.command("switch")
@click.argument("tenant")
def switch_tenant(tenant: str) -> None:
    """Go to another tenant, by slug or id; later commands are in it."""
    known = list(callers.listed(TenantServiceStub, "ListTenants", pb.ListTenantsRequest(), 10_000))
    found = [item.tenant_id for item in known if tenant in (item.slug, item.tenant_id)]
    if not found:
        raise click.ClickException(f"you belong to no tenant {tenant}; `triptych tenants list` shows those that you do")
    answer = callers.call(AuthServiceStub, "SwitchTenant", auth_pb.SwitchTenantRequest(tenant_id=found[0]))
    accounts.keep(accounts.tokens_file(), accounts.kept()["address"], answer.tokens)
    click.echo(f"in tenant {found[0]} now")


@tenants.command("delete")
@click.argument("slug")
@click.confirmation_option(prompt="Nobody will get in any more. Delete the tenant?")
def delete_tenant(slug: str) -> None:
    """Delete the tenant that you are in (needs `triptych reauthenticate`)."""
    callers.call(TenantServiceStub, "DeleteTenant", pb.DeleteTenantRequest(slug=slug))
    click.echo("deleted")


@tenants.command("set-tier")
@home_option
@click.argument("slug")
@click.argument("tier", type=click.Choice(["free", "pro", "enterprise"]))
def set_tier(home: Path, slug: str, tier: str) -> None:
    """Set the tier of a tenant, as the operator of the installation."""
    accounts.operate(home, "tenants", "set-tier", slug, tier)


@tenants.command("undelete")
@home_option
@click.argument("slug")
def undelete_tenant(home: Path, slug: str) -> None:
    """Bring a deleted tenant back, as the operator of the installation."""
    accounts.operate(home, "tenants", "undelete", slug)
