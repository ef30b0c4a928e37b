"""`triptych budgets`: what an owner or the whole tenant may use, where that stands, and warnings about it."""

from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask

from services.cli import callers, names
from services.cli.callers import json_option
from services.cli.groups import Deferring
from services.cli.links import Link, providing
from triptych.providers.v1 import quota_service_pb2 as quota_pb, tenant_ai_config_service_pb2 as tenant_pb
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub
from triptych.providers.v1.tenant_ai_config_pb2 import TenantAiConfig
from triptych.providers.v1.tenant_ai_config_service_pb2_grpc import TenantAiConfigServiceStub

MORE = {
    "alerts": "services.cli.alerts:list_alerts",
    "ack": "services.cli.alerts:acknowledge",
    "watch": "services.cli.alerts:watch",
    "allow": "services.cli.overrides:allow",
    "price": "services.cli.overrides:price",
}
"""Commands of other modules, imported when they are called."""
COUNTS = ("daily_requests", "monthly_requests", "daily_tokens", "monthly_tokens", "concurrent_requests")
COSTS = ("daily_cost", "monthly_cost")
SWITCHES = ("ai_enabled", "platform_key_allowed", "local_fallback_allowed")
WINDOWS = ("name", "limit", "committed", "held", "reset_time")
NO_LIMIT = "none"


class Budgets(Deferring):
    """Commands of several modules."""

    elsewhere = MORE


class Limit(click.ParamType[str]):
    """A number, or `none` where there shall be no limit."""

    name = "number|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form."""
        text = str(value)
        if text != NO_LIMIT and not (text.isascii() and text.replace(".", "", 1).isdigit()):
            self.fail(f"{text!r} is no limit: give a number, 0 to forbid, or `none`", param, ctx)
        return text


def _whose(command: Any) -> Any:
    owner = click.option("--owner", metavar="WHO", help="Somebody else: ada@example.com, agent:NAME, KIND:ID (admins).")
    return owner(click.option("--tenant", is_flag=True, help="The whole tenant (admins).")(command))


def _limits(command: Any) -> Any:
    for name in reversed((*COSTS, *COUNTS)):
        unit = "USD" if name in COSTS else "NUMBER"
        text = f"{name.replace('_', ' ').capitalize()}{' in USD' if name in COSTS else ''}; `none`: no limit."
        command = click.option(f"--{name.replace('_', '-')}", type=Limit(), metavar=unit, help=text)(command)
    return command


@click.group(cls=Budgets)
def budgets() -> None:
    """What may be used, by whom; and warnings before it is used up.

    \b
    triptych budgets show
    triptych budgets set --owner ada@example.com --daily-cost 5 --monthly-cost 100
    triptych budgets set --tenant --monthly-cost 2000
    triptych budgets alerts
    """  # noqa: D301 - click's mark


@budgets.command()
@_whose
@json_option
@providing
def show(link: Link, *, owner: str | None, tenant: bool, as_json: bool) -> None:
    """Show limits and where they stand: your own, somebody's or the tenant's. `held` is what is under way."""
    _one(owner, tenant=tenant)
    if tenant:
        answer = link.call(TenantAiConfigServiceStub, "GetTenantAiConfig", tenant_pb.GetTenantAiConfigRequest())
    else:
        answer = link.call(QuotaServiceStub, "GetQuota", _quota_of(owner))
    if as_json:
        callers.show(answer, as_json=True)
        return
    if tenant:
        show_tenant(link, answer.config, as_json=False, limits=False)  # which the windows show
    else:
        kind = "set for them" if answer.quota.custom else "what their role has"
        click.echo(f"{callers.principal(answer.quota.owner)}: {kind}")
    callers.table(answer.windows, WINDOWS, as_json=False)


@budgets.command("set")
@_whose
@_limits
@click.option("--ai/--no-ai", "ai_enabled", default=None, help="With --tenant: AI may be used at all.")
@click.option(
    "--platform-key/--no-platform-key", "platform_key_allowed", default=None,
    help="With --tenant: calls that ask for it may use the platform's key.",
)  # fmt: skip
@click.option(
    "--local-fallback/--no-local-fallback", "local_fallback_allowed", default=None,
    help="With --tenant: calls that ask for it may fall back to a local model.",
)  # fmt: skip
@json_option
@providing
def set_budget(link: Link, *, owner: str | None, tenant: bool, as_json: bool, **given: Any) -> None:
    """Set limits: your own, somebody's or the tenant's (admins). What is not given stays; 0 forbids, `none` lifts.

    \b
    triptych budgets set --owner agent:reviewer --daily-requests 500 --daily-cost none
    triptych budgets set --tenant --no-ai
    """  # noqa: D301 - click's mark
    _one(owner, tenant=tenant)
    wanted = {_field(name): value for name, value in given.items() if value is not None}
    if not wanted:
        raise click.UsageError("say what to set; `triptych budgets set --help` lists what there is")
    if tenant:
        _set_tenant(link, wanted, as_json=as_json)
        return
    if switches := [name for name in SWITCHES if name in wanted]:
        raise click.UsageError(f"{_option(switches[0])} is for the whole tenant: give it with --tenant")
    answer = link.call(QuotaServiceStub, "GetQuota", _quota_of(owner))
    for field, value in wanted.items():
        _put(answer.quota, field, value)
    stored = link.call(QuotaServiceStub, "SetQuota", quota_pb.SetQuotaRequest(quota=answer.quota))
    callers.show(stored.quota, as_json=as_json)


def _set_tenant(link: Link, wanted: dict[str, Any], *, as_json: bool) -> None:
    if "concurrent_requests" in wanted:
        raise click.UsageError("--concurrent-requests is for one owner: leave out --tenant")
    now = link.call(TenantAiConfigServiceStub, "GetTenantAiConfig", tenant_pb.GetTenantAiConfigRequest()).config
    config = TenantAiConfig(etag=now.etag)
    for field, value in wanted.items():
        _put(config, field, value)
    request = tenant_pb.UpdateTenantAiConfigRequest(config=config, update_mask=FieldMask(paths=list(wanted)))
    stored = link.call(TenantAiConfigServiceStub, "UpdateTenantAiConfig", request).config
    show_tenant(link, stored, as_json=as_json)


def show_tenant(link: Link, config: TenantAiConfig, *, as_json: bool, limits: bool = True) -> None:
    """Print what holds for the whole tenant, providers by their names."""
    if as_json:
        callers.show(config, as_json=True)
        return
    shown = TenantAiConfig()
    shown.CopyFrom(config)
    for field in ("etag", "tier_overrides", "price_overrides", *(() if limits else _limit_fields())):
        shown.ClearField(field)  # type: ignore[arg-type]  # names of fields
    callers.show(shown, as_json=False, always=SWITCHES)
    if not config.tier_overrides and not config.price_overrides:
        return
    called = {item.id: item.name for item in names.providers(link, archived=True)}
    for tier in config.tier_overrides:
        allowed = ", ".join(called.get(item, item) for item in tier.provider_ids) or "no provider"
        click.echo(f"{callers.text(tier, 'role')}s may use {allowed}")
    for price in config.price_overrides:
        costs = f"{price.input_cost_usd_per_1k or 0} in, {price.output_cost_usd_per_1k or 0} out"
        click.echo(
            f"{called.get(price.provider_id, price.provider_id)} costs the tenant {costs} (USD for 1,000 tokens)"
        )


def _quota_of(owner: str | None) -> quota_pb.GetQuotaRequest:
    return quota_pb.GetQuotaRequest(owner=names.owner(owner) if owner else None)


def _one(owner: str | None, *, tenant: bool) -> None:
    if owner and tenant:
        raise click.UsageError("give --owner or --tenant, not both")


def _put(message: Any, field: str, value: Any) -> None:
    """Set a limit or a switch; no limit is a field that is not there."""
    if value == NO_LIMIT:
        message.ClearField(field)
    elif isinstance(value, bool) or field.endswith("_usd"):
        setattr(message, field, value)
    elif value.isdigit() and len(value) < 19:
        setattr(message, field, int(value))
    else:
        raise click.UsageError(f"{_option(field)} takes whole numbers")


def _limit_fields() -> tuple[str, ...]:
    return tuple(_field(name) for name in (*COSTS, *COUNTS) if name != "concurrent_requests")


def _field(name: str) -> str:
    return f"{name}_usd" if name in COSTS else name


def _option(field: str) -> str:
    short = field.removesuffix("_usd").removesuffix("_enabled").removesuffix("_allowed")
    return f"--{short.replace('_', '-')}"
