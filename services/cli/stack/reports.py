"""What `triptych up` prints when everything runs, and the same as JSON for programs."""

from typing import Any, Final

from rich.console import Console
from rich.table import Table

from services.cli.stack.backends import Backends
from services.cli.stack.supervisor import Status

_WIDE: Final = 120


def summarise(backends: Backends, statuses: list[Status], seconds: float) -> dict[str, Any]:
    """Return where everything is; paths of secrets, and no secret."""
    home = backends.home.path
    return {
        "home": str(home),
        "seconds": round(seconds, 2),
        "postgres": {
            "url": f"postgresql://postgres@127.0.0.1:{backends.ports['postgres']}/{backends.topology.database}",
            "password_file": str(backends.postgres.password_file),
        },
        "valkey": {"url": backends.valkey.url, "password_file": str(backends.valkey.password_file)},
        "openbao": {"url": backends.openbao.url, "token_file": str(backends.openbao.token_file)},
        "services": {
            status.service.name: {
                "address": status.address,
                "plaintext": status.plaintext,
                "metrics": f"127.0.0.1:{backends.ports[f'{status.service.name}.metrics']}",
                "schema": status.service.schema,
                "health": "serving",
                "settings": str(home / "config" / f"{status.service.name}.toml"),
            }
            for status in statuses
        },
    }


def show(console: Console, summary: dict[str, Any]) -> None:
    """Print one table and how to reach the servers; without a terminal, plain lines."""
    if console.is_terminal:
        _show_table(console, summary)
    else:
        for row in _rows(summary):
            _line(console, "\t".join(row))
    postgres, valkey, openbao = summary["postgres"], summary["valkey"], summary["openbao"]
    _line(console, f"home     {summary['home']}")
    _line(console, f"postgres {postgres['url']}  password in {postgres['password_file']}")
    _line(console, f"valkey   {valkey['url']}  password in {valkey['password_file']}")
    _line(console, f"openbao  {openbao['url']}  root token in {openbao['token_file']}")
    _line(console, f"ready in {summary['seconds']:.1f} s; stop with Ctrl-C")


def _show_table(console: Console, summary: dict[str, Any]) -> None:
    """Print the table; on a narrow terminal one command below it instead of a column that would be cut."""
    wide = console.width >= _WIDE
    columns = ("service", "address (mutual TLS)", "schema", "health", "try it")
    shown = len(columns) if wide else len(columns) - 1
    table = Table(*columns[:shown])
    rows = _rows(summary)
    for row in rows:
        table.add_row(*row[:shown])
    console.print(table)
    if rows and not wide:
        _line(console, f"try it   {rows[0][-1]}")


def _rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            part["address"],
            part["schema"],
            part["health"],
            f"grpcurl -plaintext {part['plaintext']} list",
        )
        for name, part in summary["services"].items()
    ]


def _line(console: Console, text: str) -> None:
    """Print one line as it is: not wrapped, nothing taken for mark-up."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
