"""`triptych audit`: verify an export without a server, or export and verify the log of a running one."""

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.audit import verifier
from services.cli import accounts
from triptych.audit.v1 import audit_service_pb2 as pb, audit_service_pb2_grpc

VERDICTS = {
    pb.LOG_VERDICT_OK: "ok",
    pb.LOG_VERDICT_TAMPERED: "tampered",
    pb.LOG_VERDICT_UNANCHORED: "unanchored",
    pb.LOG_VERDICT_INCOMPLETE: "incomplete",
}
LONGEST_SECONDS = 600
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
EVERY = 500
"""Entries between two steps of the progress bar when a file is verified."""
_file = click.Path(path_type=Path, dir_okay=False, exists=True)
_errors = Console(stderr=True)
_token_file = click.option(
    "--token-file", type=_file, help="File with an admin's access token; else the tokens that `triptych login` keeps."
)
Answer = TypeVar("Answer")


class Audit(click.Group):
    """Exit codes 1 to 3 are answers; whatever keeps a command from answering leaves with another."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Read the group's own arguments."""
        return _misusing(super().make_context, *arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Read the arguments of a command and run it."""
        return _misusing(super().invoke, ctx)


def _misusing(call: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:
    try:
        return call(*arguments, **options)
    except click.ClickException as error:
        error.exit_code = verifier.MISUSED  # type: ignore[misc]  # click reads it of the instance
        raise


@click.group(cls=Audit)
def audit() -> None:
    """Export and verify the audit log."""


@audit.command()
@click.argument("file", required=False, type=_file)
@click.option("--public-key", "keys", multiple=True, help="The log's key (base64), got from elsewhere than the file.")
@click.option("--checkpoint", "held", multiple=True, type=_file, help="A checkpoint, or an export, kept from before.")
@click.option("--receipts", multiple=True, type=_file, help="Receipts that emitters kept, as JSON lines.")
@click.option("--address", help="HOST:PORT of the audit service, to verify its log instead of a file.")
@_token_file
@click.option("--ca-file", type=_file, help="Authority of the server's certificate; needed beyond this machine.")
@click.pass_context
def verify(  # noqa: PLR0917 - click gives each option
    context: click.Context, file: Path | None, keys: tuple[str, ...], held: tuple[Path, ...],
    receipts: tuple[Path, ...], address: str | None, token_file: Path | None, ca_file: Path | None,
) -> None:  # fmt: skip
    """Verify FILE without any server, or the log behind --address.

    Answers ok (exit code 0), tampered (1), unanchored (2) or incomplete (3).
    """
    if (file is None) == (address is None):
        raise Misused("give either FILE or --address")
    if file is not None:
        result = _verify_file(file, _anchors(file, keys, held, receipts))
    else:
        result = _verify_online(Connection(str(address), token_file, ca_file))
    click.echo(f"{result.verdict}: {result.text}")
    context.exit(verifier.EXIT_CODES[result.verdict])


@audit.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--address", required=True, help="HOST:PORT of the audit service.")
@_token_file
@click.option("--ca-file", type=_file, help="Authority of the server's certificate; needed beyond this machine.")
def export(file: Path, address: str, token_file: Path | None, ca_file: Path | None) -> None:
    """Write the whole log, up to its newest checkpoint, to FILE."""
    connection = Connection(address, token_file, ca_file)
    draft = file.with_name(f"{file.name}.part")
    with draft.open("wb") as out, _bar("exported", "bytes") as bar:
        out.truncate()
        draft.chmod(stat.S_IRUSR | stat.S_IWUSR)
        task = bar.add_task("export", total=None)
        for message in connection.stream("ExportEvents", pb.ExportEventsRequest()):
            out.write(message.chunk)
            bar.update(task, advance=len(message.chunk))
    draft.replace(file)
    checkpoint = verifier.read_checkpoint(file)
    click.echo(f"{file}: {checkpoint.size} entries of log {checkpoint.log_id}, signed {checkpoint.signed_at}")


class Misused(click.ClickException):
    """There is nothing to verify; the exit code is none of the answers."""

    exit_code = verifier.MISUSED


class Connection:
    """The audit service, as an admin calls it."""

    def __init__(self, address: str, token_file: Path | None, ca_file: Path | None) -> None:
        if ca_file is None and address.rpartition(":")[0] not in LOOPBACK:
            raise Misused(f"{address} is not on this machine: a token may go there only under TLS; give --ca-file")
        self._metadata = (("authorization", f"Bearer {_token(token_file)}"),)
        self._channel = (
            grpc.insecure_channel(address)
            if ca_file is None
            else grpc.secure_channel(address, grpc.ssl_channel_credentials(ca_file.read_bytes()))
        )
        self._stub = audit_service_pb2_grpc.AuditServiceStub(self._channel)

    def stream(self, method: str, request: Message) -> Iterator[Any]:
        """Give the messages of a call; a failure says what to do."""
        try:
            yield from getattr(self._stub, method)(request, metadata=self._metadata, timeout=LONGEST_SECONDS)
        except grpc.RpcError as error:
            status = rpc_status.from_call(error)  # type: ignore[arg-type]  # a failed call is both
            text = status.message if status is not None else error.details()
            raise Misused(f"{method}: {text}") from None
        finally:
            self._channel.close()


def _token(file: Path | None) -> str:
    """Give the access token in a file, which holds only that or is one that `triptych login` wrote."""
    try:
        text = file.read_text(encoding="utf-8").strip() if file is not None else "{}"
        token = str(accounts.kept(file)["access_token"]) if isinstance(_document(text), dict) else text
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Misused(f"{file or accounts.tokens_file()} holds no tokens of `triptych login`: {error!r}") from None
    if not token.isascii() or not token.isprintable() or not token or " " in token:
        raise Misused(f"{file} holds no access token: it must hold what `triptych token` prints, and nothing else")
    return token


def _document(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _anchors(file: Path, keys: tuple[str, ...], held: tuple[Path, ...], receipts: tuple[Path, ...]) -> verifier.Anchors:
    try:
        verifier.refuse_itself(file, held)
        return verifier.read_anchors(keys, held, receipts)
    except (OSError, ValueError, KeyError, verifier.Bad) as error:
        raise Misused(f"a key, checkpoint or receipt cannot be read: {error}") from None


def _verify_file(file: Path, anchors: verifier.Anchors) -> verifier.Result:
    with file.open("rb") as lines, _bar("verified", "entries") as bar:
        task = bar.add_task("verify", total=None)

        def step(size: int) -> None:
            if size % EVERY == 0:
                bar.update(task, completed=size)

        return verifier.verify(lines, anchors, step)


def _verify_online(connection: Connection) -> verifier.Result:
    message = pb.VerifyLogResponse()
    with _bar("verified", "entries") as bar:
        task = bar.add_task("verify", total=None)
        for message in connection.stream("VerifyLog", pb.VerifyLogRequest()):
            bar.update(task, completed=message.verified, total=message.total)
    signed = message.checkpoint
    text = message.finding or f"{message.verified} entries of log {signed.log_id}, signed by {signed.public_key}"
    return verifier.Result(VERDICTS[message.verdict], text, message.verified)


def _bar(verb: str, unit: str) -> Progress:
    """A progress bar on standard error, gone when it is done; none when nobody looks."""
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    return Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal)
