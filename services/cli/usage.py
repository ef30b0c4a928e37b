"""`triptych usage`: what AI was used and what it cost: as a table, as CSV, as a chart.

The chart needs matplotlib, which comes with the extra `charts`; everything else does without.
"""

import importlib.util
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from services.cli import drafts
from services.cli.callers import json_option
from services.cli.links import Link, providing
from triptych.providers.v1 import usage_pb2, usage_service_pb2 as pb
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub

GROUPINGS = {
    "day": usage_pb2.USAGE_GROUPING_DAY,
    "model": usage_pb2.USAGE_GROUPING_MODEL,
    "owner": usage_pb2.USAGE_GROUPING_OWNER,
    "operation": usage_pb2.USAGE_GROUPING_OPERATION,
}
SERIES = ("model", "owner", "operation")
MOST_SERIES = 9
"""Lines of a chart; the rest are added up."""
EXPORT_SECONDS = 600
MOST = 1_000_000


@click.group()
def usage() -> None:
    """What AI was used, and what it cost."""


_from = click.option("--from", "start", metavar="YYYY-MM-DD", help="First day; 30 days ago unless given.")
_to = click.option("--to", "end", metavar="YYYY-MM-DD", help="Last day; today unless given.")


@usage.command()
@_from
@_to
@click.option("--by", "groupings", type=click.Choice(list(GROUPINGS)), multiple=True, help="What to add up by.")
@json_option
@providing
def report(link: Link, *, start: str | None, end: str | None, groupings: tuple[str, ...], as_json: bool) -> None:
    """Print usage added up by day, model, owner or operation; by day and model unless told otherwise."""
    chosen = list(dict.fromkeys(groupings)) or ["day", "model"]
    first, last = _span(start, end)
    rows = [_row(total, chosen) for total in _totals(link, chosen, first, last)]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    columns = [*chosen, "requests", "input", "output", "cost_usd"]
    widths = [max(len(str(row[name])) for row in [dict(zip(columns, columns, strict=True)), *rows]) for name in columns]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        click.echo("  ".join(str(row[name]).ljust(width) for name, width in zip(columns, widths, strict=True)).rstrip())
    cost = sum((Decimal(row["cost_usd"]) for row in rows), Decimal(0))
    click.echo(f"total {cost.normalize():f} USD from {first} to {last}")


@usage.command()
@_from
@_to
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@providing
def export(link: Link, *, start: str | None, end: str | None, file: Path) -> None:
    """Write the ledger to FILE as CSV."""
    first, last = _span(start, end)
    request = pb.ExportUsageRequest(start_date=first, end_date=last)
    with drafts.drafted(file) as out:
        for message in link.stream(UsageServiceStub, "ExportUsage", request, seconds=EXPORT_SECONDS):
            out.write(message.chunk.encode())
    click.echo(f"{file}: from {first} to {last}")


@usage.command()
@_from
@_to
@click.option("--by", type=click.Choice(SERIES), default="model", show_default=True, help="What each colour is.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@providing
def chart(link: Link, *, start: str | None, end: str | None, by: str, file: Path) -> None:
    """Draw the cost of each day to FILE (PNG)."""
    if file.suffix.lower() not in ("", ".png"):
        raise click.UsageError(f"the chart is a PNG: name the file {file.with_suffix('.png')}")
    _require_matplotlib()
    first, last = _span(start, end)
    costs: dict[str, dict[str, Decimal]] = {}
    for total in _totals(link, ["day", by], first, last):
        row = _row(total, [by])
        days = costs.setdefault(str(row[by]), {})
        days[total.date] = days.get(total.date, Decimal(0)) + Decimal(total.cost_usd or "0")
    draw(file, first, last, costs)
    cost = sum((amount for days in costs.values() for amount in days.values()), Decimal(0))
    click.echo(f"{file}: {cost.normalize():f} USD from {first} to {last}")


def draw(file: Path, first: str, last: str, costs: dict[str, dict[str, Decimal]]) -> None:
    """Draw stacked bars, a day each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - it is an extra, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    days = [(begin + timedelta(days=number)).isoformat() for number in range((end - begin).days + 1)]
    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes, floor = figure.subplots(), [0.0] * len(days)
    for name, series in _largest(costs).items():
        heights = [float(series.get(day, 0)) for day in days]
        axes.bar(range(len(days)), heights, bottom=floor, label=name)
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    step = max(1, len(days) // 12)
    axes.set_xticks(range(0, len(days), step), days[::step], rotation=45, ha="right")
    axes.set_ylabel("USD a day")
    axes.set_title(f"Cost of AI from {first} to {last}")
    if costs:
        axes.legend(fontsize="small")
    with drafts.drafted(file) as out:
        figure.savefig(out, format="png", dpi=120)


def _largest(costs: dict[str, dict[str, Decimal]]) -> dict[str, dict[str, Decimal]]:
    """Give the dearest series, and the others as one."""
    names = sorted(costs, key=lambda name: -sum(costs[name].values()))
    shown = {name: costs[name] for name in names[:MOST_SERIES]}
    others: dict[str, Decimal] = {}
    for name in names[MOST_SERIES:]:
        for day, cost in costs[name].items():
            others[day] = others.get(day, Decimal(0)) + cost
    return shown | ({"others": others} if others else {})


def _require_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("charts need matplotlib: pip install 'triptych[charts]'")


def _totals(link: Link, groupings: list[str], start: str, end: str) -> Iterator[usage_pb2.UsageTotal]:
    """Give all totals, page after page."""
    request = pb.ListUsageTotalsRequest(
        group_by=[GROUPINGS[name] for name in groupings], start_date=start, end_date=end
    )
    return link.listed(UsageServiceStub, "ListUsageTotals", request, MOST)


def _row(total: usage_pb2.UsageTotal, groupings: list[str]) -> dict[str, Any]:
    names = {
        "day": total.date,
        "model": f"{total.provider_name}/{total.model_name}",
        "owner": total.owner.id,
        "operation": total.operation,
    }
    return {name: names[name] for name in groupings} | {
        "requests": total.request_count,
        "input": total.input_tokens,
        "output": total.output_tokens,
        "cost_usd": total.cost_usd or "0",
    }


def _span(start: str | None, end: str | None) -> tuple[str, str]:
    """Give first and last day; 30 days that end today unless told otherwise."""
    try:
        last = date.fromisoformat(end) if end else datetime.now(UTC).date()
        first = date.fromisoformat(start) if start else last - timedelta(days=29)
    except ValueError:
        raise click.UsageError("days are written YYYY-MM-DD") from None
    if not timedelta(0) <= last - first <= timedelta(days=3660):
        raise click.UsageError("the first day must come before the last, by ten years at most")
    return first.isoformat(), last.isoformat()
