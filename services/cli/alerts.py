"""`triptych budgets alerts`, `ack` and `watch`: warnings that a budget is nearly or wholly used up."""

import click

from services.cli import callers, names
from services.cli.callers import json_option, limit_option
from services.cli.links import Link, providing
from services.cli.watches import follow, seconds_option
from triptych.providers.v1 import usage_service_pb2 as pb
from triptych.providers.v1.usage_pb2 import CostAlert
from triptych.providers.v1.usage_service_pb2_grpc import UsageServiceStub


def _whose(alert: CostAlert) -> str:
    return callers.principal(alert.owner) if alert.HasField("owner") else "the tenant"


COLUMNS: callers.Columns = {
    "trigger_time": None,
    "whose": _whose,
    "window": None,
    "used": lambda alert: f"{alert.threshold_percent} %",
    "acknowledge_time": None,
    "id": None,
}


@click.command("alerts")
@click.option("--all", "noted", is_flag=True, help="Those that somebody took note of too.")
@limit_option
@json_option
@providing
def list_alerts(link: Link, *, noted: bool, limit: int, as_json: bool) -> None:
    """List warnings that nobody took note of, newest first: yours, as an admin the tenant's."""
    request = pb.ListCostAlertsRequest(unacknowledged_only=not noted)
    callers.table(link.listed(UsageServiceStub, "ListCostAlerts", request, limit), COLUMNS, as_json=as_json)


@click.command("ack")
@click.argument("alert_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that `triptych budgets alerts` lists.")
@json_option
@providing
def acknowledge(link: Link, *, alert_ids: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Take note of warnings, by their ids."""
    if every == bool(alert_ids):
        raise click.UsageError("give the ids that `triptych budgets alerts` lists, or --all")
    if every:
        request = pb.ListCostAlertsRequest(unacknowledged_only=True)
        found = list(link.listed(UsageServiceStub, "ListCostAlerts", request, names.MOST))
        alert_ids = tuple(alert.id for alert in found)
    done = [_acknowledged(link, alert_id) for alert_id in alert_ids]
    callers.table(done, COLUMNS, as_json=as_json)


@click.command("watch")
@click.option("--after", "resume_token", default="", metavar="TOKEN", help="Go on after this `resume_token` of --json.")
@seconds_option
@json_option
@providing
def watch(link: Link, *, resume_token: str, seconds: int | None, as_json: bool) -> None:
    """Print warnings that nobody took note of, then each new one, until Ctrl-C.

    With --json each line has a `resume_token`, and all warnings after --after are given, noted or not.
    """

    def tell(answer: pb.WatchCostAlertsResponse) -> None:
        alert = answer.cost_alert
        if as_json:
            callers.show(answer, as_json=True)
        elif not alert.HasField("acknowledge_time"):
            moment = callers.moment(alert.trigger_time)
            click.echo(f"{moment}  {_whose(alert)} used {alert.threshold_percent} % of {alert.window}  {alert.id}")

    request = pb.WatchCostAlertsRequest(resume_token=resume_token)
    follow(link, (UsageServiceStub, "WatchCostAlerts"), request, seconds, tell)


def _acknowledged(link: Link, alert_id: str) -> CostAlert:
    request = pb.AcknowledgeCostAlertRequest(cost_alert_id=alert_id)
    return link.call(UsageServiceStub, "AcknowledgeCostAlert", request).cost_alert  # type: ignore[no-any-return]
