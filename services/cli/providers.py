"""`triptych providers`: the catalogue of AI providers, their prices, and how well they do."""

from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask

from services.cli import callers, names
from services.cli.callers import json_option, limit_option
from services.cli.links import Link, providing
from services.cli.numbers import Whole
from services.cli.watches import follow, seconds_option
from triptych.providers.v1 import health_service_pb2 as health_pb, provider_service_pb2 as pb
from triptych.providers.v1.health_service_pb2_grpc import HealthServiceStub
from triptych.providers.v1.provider_pb2 import Provider, ProviderType
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub

TYPES = {
    "openai": ProviderType.PROVIDER_TYPE_OPENAI,
    "anthropic": ProviderType.PROVIDER_TYPE_ANTHROPIC,
    "openai-compatible": ProviderType.PROVIDER_TYPE_OPENAI_COMPATIBLE,
    "huggingface": ProviderType.PROVIDER_TYPE_HUGGINGFACE,
    "local": ProviderType.PROVIDER_TYPE_LOCAL,
}
COLUMNS = (
    "name",
    "type",
    "model_name",
    "api_endpoint",
    "active",
    "input_cost_usd_per_1k",
    "output_cost_usd_per_1k",
    "id",
)
HEALTH = ("provider_name", "state", "problem", "latency_ms", "consecutive_failures", "check_time", "change_time")
ALWAYS = ("active",)
price_options = (
    click.option("--input-cost", metavar="USD", help="Price of 1,000 input tokens."),
    click.option("--output-cost", metavar="USD", help="Price of 1,000 output tokens."),
)


def priced(command: Any) -> Any:
    """Add the options of prices."""
    for option in reversed(price_options):
        command = option(command)
    return command


def shaped(command: Any) -> Any:
    """Add the options of what may change."""
    for option in (
        click.option("--timeout", "timeout_seconds", type=Whole(1, 600), help="Seconds that a call may take."),
        click.option("--max-tokens", type=Whole(1, 10_000_000), help="Longest answer in tokens."),
        click.option("--platform-provided/--not-platform-provided", default=None, help="The operator provides it."),
        click.option("--endpoint", "api_endpoint", metavar="URL", help="Base address, https."),
        click.option("--model", "model_name", help="Model, as the provider calls it."),
    ):
        command = option(command)
    return command


@click.group()
def providers() -> None:
    """AI providers: each is one model at one endpoint.

    \b
    triptych providers create house --type openai-compatible --model house-7b \\
        --endpoint https://models.example.com --input-cost 0.0005 --output-cost 0.0015
    triptych providers price set house --output-cost 0.001
    triptych providers health
    """  # noqa: D301 - click's mark


@providers.command("list")
@click.option("--archived", is_flag=True, help="Those that are archived too.")
@limit_option
@json_option
@providing
def list_providers(link: Link, *, archived: bool, limit: int, as_json: bool) -> None:
    """List providers in order of name; prices are in USD for 1,000 tokens."""
    request = pb.ListProvidersRequest(show_archived=archived)
    found = link.listed(ProviderServiceStub, "ListProviders", request, limit)
    columns = {name: _cell(name) for name in COLUMNS}
    callers.table(found, columns | ({"archive_time": None} if archived else {}), as_json=as_json)


@providers.command("show")
@click.argument("provider")
@json_option
@providing
def show_provider(link: Link, *, provider: str, as_json: bool) -> None:
    """Show one provider, by name or id."""
    callers.show(names.provider(link, provider, archived=True), as_json=as_json, always=ALWAYS)


@providers.command("create")
@click.argument("name")
@click.option("--type", "type_name", type=click.Choice(list(TYPES)), required=True, help="Which format it speaks.")
@shaped
@priced
@json_option
@providing
def create_provider(
    link: Link,
    *,
    name: str,
    type_name: str,
    input_cost: str | None,
    output_cost: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Add a provider (admins).

    \b
    triptych providers create claude --type anthropic --model claude-sonnet-4-5 \\
        --endpoint https://api.anthropic.com --input-cost 0.003 --output-cost 0.015
    """  # noqa: D301 - click's mark
    values = {"max_tokens": 4096, "timeout_seconds": 60} | {
        field: value for field, value in given.items() if value is not None
    }
    if "model_name" not in values:
        raise click.UsageError("say which model it is, as the provider calls it: --model")
    if type_name != "local" and "api_endpoint" not in values:
        raise click.UsageError("say where it is: --endpoint https://HOST/…")
    made = Provider(
        name=name,
        type=TYPES[type_name],
        input_cost_usd_per_1k=input_cost or "",
        output_cost_usd_per_1k=output_cost or "",
        **values,
    )
    answer = link.call(ProviderServiceStub, "CreateProvider", pb.CreateProviderRequest(provider=made))
    callers.show(answer.provider, as_json=as_json, always=ALWAYS)


@providers.command("update")
@click.argument("provider")
@click.option("--name", help="New name.")
@click.option("--active/--inactive", default=None, help="Whether it can be used.")
@shaped
@json_option
@providing
def update_provider(link: Link, *, provider: str, as_json: bool, **given: Any) -> None:
    """Change a provider; what is not given stays (admins). Prices: `triptych providers price set`."""
    values = {field: value for field, value in given.items() if value is not None}
    if not values:
        raise click.UsageError("say what to change; `triptych providers update --help` lists what can be")
    now = names.provider(link, provider)
    request = pb.UpdateProviderRequest(
        provider=Provider(id=now.id, etag=now.etag, **values), update_mask=FieldMask(paths=list(values))
    )
    callers.show(link.call(ProviderServiceStub, "UpdateProvider", request).provider, as_json=as_json, always=ALWAYS)


@providers.command("archive")
@click.argument("provider")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@providing
def archive_provider(link: Link, *, provider: str, yes: bool, as_json: bool) -> None:
    """End a provider for good: its keys are destroyed, usage stays (admins)."""
    now = names.provider(link, provider, archived=True)
    if not yes:
        click.confirm(f"All keys for {now.name} are destroyed, and it does not come back. Archive it?", abort=True)
    request = pb.ArchiveProviderRequest(provider_id=now.id, etag=now.etag)
    callers.show(link.call(ProviderServiceStub, "ArchiveProvider", request).provider, as_json=as_json, always=ALWAYS)


@providers.group("price")
def price() -> None:
    """What a provider costs, now and before."""


@price.command("set")
@click.argument("provider")
@priced
@json_option
@providing
def set_price(link: Link, *, provider: str, input_cost: str | None, output_cost: str | None, as_json: bool) -> None:
    """Set prices from now on; one that is not given stays (admins)."""
    if input_cost is None and output_cost is None:
        raise click.UsageError("say what it costs: --input-cost, --output-cost or both")
    now = names.provider(link, provider)
    request = pb.SetProviderPriceRequest(
        provider_id=now.id,
        input_cost_usd_per_1k=now.input_cost_usd_per_1k if input_cost is None else input_cost,
        output_cost_usd_per_1k=now.output_cost_usd_per_1k if output_cost is None else output_cost,
        etag=now.etag,
    )
    callers.show(link.call(ProviderServiceStub, "SetProviderPrice", request).price_version, as_json=as_json)


@price.command("list")
@click.argument("provider")
@limit_option
@json_option
@providing
def list_prices(link: Link, *, provider: str, limit: int, as_json: bool) -> None:
    """List the prices that a provider had, newest first, in USD for 1,000 tokens."""
    request = pb.ListProviderPricesRequest(provider_id=names.provider(link, provider, archived=True).id)
    found = link.listed(ProviderServiceStub, "ListProviderPrices", request, limit)
    columns = {name: _cell(name) for name in COLUMNS[5:7]}
    callers.table(found, {"effective_time": None, **columns, "id": None}, as_json=as_json)


@providers.command("health")
@click.argument("provider", required=False)
@limit_option
@json_option
@providing
def health(link: Link, *, provider: str | None, limit: int, as_json: bool) -> None:
    """List how well active providers do, or one, by name or id; each is asked every five minutes, and calls count."""
    request = health_pb.ListProviderHealthRequest()
    found = link.listed(HealthServiceStub, "ListProviderHealth", request, names.MOST if provider else limit)
    if provider is not None:
        wanted = names.provider(link, provider)
        found = iter([one for one in found if one.provider_id == wanted.id])
        if not wanted.active:
            raise click.ClickException(f"{wanted.name} is switched off, so nobody asks how it does")
    callers.table(found, HEALTH, as_json=as_json)


@providers.command("watch")
@seconds_option
@json_option
@providing
def watch(link: Link, *, seconds: int | None, as_json: bool) -> None:
    """Print how well providers do, then each change of a state, until Ctrl-C."""
    seen: dict[str, int] = {}

    def tell(answer: health_pb.WatchProviderHealthResponse) -> None:
        found = answer.provider_health
        if seen.get(found.provider_id) != found.state:  # else it is how things stand, as another stretch begins
            seen[found.provider_id] = found.state
            callers.line(found, ("change_time", *HEALTH[:3]), as_json=as_json)

    follow(link, (HealthServiceStub, "WatchProviderHealth"), health_pb.WatchProviderHealthRequest(), seconds, tell)


def _cell(name: str) -> Any:
    """Make the cell of a field, prices without one as what they are."""
    if not name.endswith("_usd_per_1k"):
        return None
    return lambda message: getattr(message, name) or "0"
