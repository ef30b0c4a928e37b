"""`triptych up`: the three servers and the seven services on this machine, until Ctrl-C."""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, Never

import click
from rich.console import Console

from services.cli import drafts
from services.cli.numbers import Real
from services.cli.stack import ports, reports, topology
from services.cli.stack.backends import Backends
from services.cli.stack.faults import StackFault
from services.cli.stack.homes import replace
from services.cli.stack.tenders import Tender

SERVERS = ("openbao", "postgres", "valkey")
_TICK: Final = 0.1


class Port(click.ParamType[tuple[str, int]]):
    """NAME=NUMBER."""

    name = "name=port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Split, and check the number and the name."""
        if isinstance(value, tuple):
            return value
        name, separator, number = str(value).partition("=")
        if not separator or not number.isdecimal() or not 0 < int(number) < 65536:
            self.fail(f"{value!r} is not NAME=PORT with a port from 1 to 65535, for example auth=7410", param, ctx)
        if name not in (known := ports.usual(topology.read())):
            self.fail(f"no part is called {name!r}; ports can be set for {', '.join(known)}", param, ctx)
        return name, int(number)


def _apart(
    ctx: click.Context, param: click.Parameter, demands: tuple[tuple[str, int], ...]
) -> tuple[tuple[str, int], ...]:
    """Refuse two ports for a part, and two parts for a port."""
    for texts in zip(*demands, strict=True):
        if twice := [text for text in texts if texts.count(text) > 1]:
            raise click.BadParameter(f"{twice[0]} is named twice: give each part one port of its own", ctx, param)
    return demands


def _placed(ctx: click.Context, param: click.Parameter, file: Path | None) -> Path | None:
    """Refuse at once what could not be written after the start, and what must not be removed before it."""
    if file is None:
        return None
    try:
        place = drafts.resolve(file)
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}", ctx, param) from None
    if file.exists() and not file.is_file():
        raise click.BadParameter(f"{file} is no ordinary file, and would be replaced by one: name another", ctx, param)
    if not place.parent.is_dir():
        raise click.BadParameter(f"there is no folder {place.parent}: make it first", ctx, param)
    return place


class Servers(click.ParamType[bool]):
    """The three servers, in any order."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Accept the one subset that makes sense: all three without the services."""
        if isinstance(value, bool):
            return value
        if tuple(sorted(str(value).split(","))) != SERVERS:
            self.fail(f"only {','.join(SERVERS)} can run without the services", param, ctx)
        return True


home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="TRIPTYCH_HOME",
    default=Path(".triptych"),
    show_default=True,
    help="Folder for data, secrets, settings and logs.",
)


@click.command()
@home_option
@click.option(
    "--port",
    "demands",
    type=Port(),
    multiple=True,
    callback=_apart,
    help="Demand a port: auth=7410, postgres=5432, …",
)
@click.option("--only", "servers_only", type=Servers(), default=False, help=f"{','.join(SERVERS)}: no services.")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_placed,
    help="Write a JSON summary when everything is healthy.",
)
@click.option(
    "--patience",
    type=Real(1, 3600),
    default=60.0,
    show_default=True,
    help="Seconds that services have to be healthy.",
)
def up(
    home: Path,
    demands: tuple[tuple[str, int], ...],
    servers_only: bool,
    ready_file: Path | None,
    patience: float,
) -> None:
    """Start the whole stack on this machine."""
    begun = time.monotonic()
    console = Console(stderr=False)
    if ready_file:
        ready_file.unlink(missing_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job starts with it ignored
        signal.signal(number, _interrupt)

    def report(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    def ready(backends: Backends, statuses: list[Any]) -> None:
        summary = reports.summarise(backends, statuses, time.monotonic() - begun)
        reports.show(console, summary)
        if ready_file:
            replace(ready_file, json.dumps(summary, indent=2) + "\n")

    try:
        with Backends(home, dict(demands)) as backends:
            _report_moves(backends, report, servers_only=servers_only)
            with _stopping(report):
                if servers_only:
                    ready(backends, [])
                    _watch(backends, report)
                else:
                    _serve(backends, report, patience, lambda statuses: ready(backends, statuses))
        report(f"stopped; data are kept in {backends.home.path}")
    except StackFault as fault:
        raise click.ClickException(str(fault)) from fault
    except KeyboardInterrupt:
        report("stopped before everything had started")  # the backends are stopped by now
    finally:
        if ready_file:
            ready_file.unlink(missing_ok=True)


def _report_moves(backends: Backends, report: Callable[[str], None], *, servers_only: bool) -> None:
    for text in backends.moved(servers_only=servers_only):
        report(text)


@contextmanager
def _stopping(report: Callable[[str], None]) -> Iterator[None]:
    """End with the first signal; further ones must not interrupt the stop of the servers, which is what follows."""
    try:
        yield
    except KeyboardInterrupt:
        _ignore_signals()
        report("stopping")
    finally:
        _ignore_signals()


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _watch(backends: Backends, report: Callable[[str], None]) -> Never:
    """Look after the servers until a signal raises, or one that keeps dying."""
    tender = Tender(backends, report)
    try:
        while True:
            tender.look()
            time.sleep(_TICK)
    finally:
        tender.close()


def _serve(backends: Backends, report: Callable[[str], None], patience: float, ready: Any) -> None:
    """Migrate and run the services; imported here, because gRPC and Alembic take a moment."""
    from services.cli.stack import migrations  # noqa: PLC0415 - see above
    from services.cli.stack.supervisor import Supervisor  # noqa: PLC0415 - see above

    async def run() -> None:
        for schema in await migrations.upgrade(backends):
            report(f"schema {schema} migrated")
        await Supervisor(backends, report=report, patience=patience).run(ready)

    try:
        asyncio.run(run())
    except ExceptionGroup as group:  # of the supervisor's tasks
        raise group.exceptions[0] from None


def _interrupt(_signal: int, _frame: FrameType | None) -> Never:
    _ignore_signals()
    raise KeyboardInterrupt
