"""`triptych budgets allow` and `price`: which roles may use which providers, and what the tenant pays by a contract."""

from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask

from services.cli import names, people
from services.cli.budgets import show_tenant
from services.cli.callers import json_option
from services.cli.links import Link, providing
from services.cli.providers import priced
from triptych.providers.v1 import tenant_ai_config_service_pb2 as pb
from triptych.providers.v1.tenant_ai_config_pb2 import PriceOverride, TenantAiConfig, TierOverride
from triptych.providers.v1.tenant_ai_config_service_pb2_grpc import TenantAiConfigServiceStub


@click.command()
@click.argument("role", type=click.Choice(people.ROLES))
@click.argument("providers", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All providers, those to come too.")
@click.option("--none", "nothing", is_flag=True, help="No provider at all.")
@json_option
@providing
def allow(link: Link, *, role: str, providers: tuple[str, ...], every: bool, nothing: bool, as_json: bool) -> None:
    """Say which PROVIDERS people of a ROLE may use, by name or id; agents are users here (admins).

    \b
    triptych budgets allow viewer house
    triptych budgets allow user --all
    """  # noqa: D301 - click's mark
    if (bool(providers), every, nothing).count(True) != 1:
        raise click.UsageError("name providers, or give --all or --none")
    config = _config(link)
    others = [tier for tier in config.tier_overrides if tier.role != people.role(role)]
    ids = [names.provider(link, name).id for name in providers]
    wanted = [] if every else [TierOverride(role=people.role(role), provider_ids=ids)]
    changed = TenantAiConfig(etag=config.etag, tier_overrides=[*others, *wanted])
    _store(link, changed, "tier_overrides", as_json=as_json)


@click.command()
@click.argument("provider")
@priced
@click.option("--catalogue", is_flag=True, help="What the catalogue says, again.")
@json_option
@providing
def price(
    link: Link, *, provider: str, input_cost: str | None, output_cost: str | None, catalogue: bool, as_json: bool
) -> None:
    """Set what the tenant pays for PROVIDER, in the place of the catalogue's prices (admins)."""
    if catalogue == (input_cost is not None and output_cost is not None):
        raise click.UsageError("give both --input-cost and --output-cost, or --catalogue")
    config, provider_id = _config(link), names.provider(link, provider).id
    others = [one for one in config.price_overrides if one.provider_id != provider_id]
    own = PriceOverride(
        provider_id=provider_id, input_cost_usd_per_1k=input_cost or "", output_cost_usd_per_1k=output_cost or ""
    )
    wanted = others if catalogue else [*others, own]
    _store(link, TenantAiConfig(etag=config.etag, price_overrides=wanted), "price_overrides", as_json=as_json)


def _config(link: Link) -> Any:
    return link.call(TenantAiConfigServiceStub, "GetTenantAiConfig", pb.GetTenantAiConfigRequest()).config


def _store(link: Link, config: TenantAiConfig, field: str, *, as_json: bool) -> None:
    request = pb.UpdateTenantAiConfigRequest(config=config, update_mask=FieldMask(paths=[field]))
    show_tenant(link, link.call(TenantAiConfigServiceStub, "UpdateTenantAiConfig", request).config, as_json=as_json)
