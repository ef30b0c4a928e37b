"""`triptych audit`: verify an export or a proof without a server; export, prove and verify the log of a running one."""

import functools
import importlib
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

from services.audit import archives, verifier
from services.cli import accounts, choices
from triptych.audit.v1 import audit_service_pb2 as pb, audit_service_pb2_grpc, event_pb2

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


MORE = {
    "search": "services.cli.entries:search",
    "timeline": "services.cli.entries:timeline",
    "stats": "services.cli.entries:stats",
    "redact": "services.cli.entries:redact",
    "retirements": "services.cli.entries:retirements",
    "retire": "services.cli.retirements:retire",
}
"""Commands of other modules, imported when they are called."""


class Audit(click.Group):
    """Exit codes 1 to 3 are answers; whatever keeps a command from answering leaves with another."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List all commands."""
        return sorted([*super().list_commands(ctx), *MORE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command of another module."""
        if cmd_name not in MORE:
            return super().get_command(ctx, cmd_name)
        module, _, name = MORE[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

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
@click.option("--witness-key", "witnesses", multiple=True, help="A witness's key (base64), got from elsewhere.")
@click.option("--checkpoint", "held", multiple=True, type=_file, help="A checkpoint, or an export, kept from before.")
@click.option("--receipts", multiple=True, type=_file, help="Receipts that emitters kept, as JSON lines.")
@click.option("--address", help="HOST:PORT of the audit service, to verify its log instead of a file.")
@_token_file
@click.option("--ca-file", type=_file, help="Authority of the server's certificate; needed beyond this machine.")
@click.pass_context
def verify(  # noqa: PLR0917 - click gives each option
    context: click.Context, file: Path | None, keys: tuple[str, ...], witnesses: tuple[str, ...],
    held: tuple[Path, ...], receipts: tuple[Path, ...], address: str | None, token_file: Path | None,
    ca_file: Path | None,
) -> None:  # fmt: skip
    """Verify FILE without any server, or the log behind --address.

    Answers ok (exit code 0), tampered (1), unanchored (2) or incomplete (3).
    """
    if (file is None) == (address is None):
        raise Misused("give either FILE or --address")
    if file is not None:
        result = _verify_file(file, _anchors(file, keys, witnesses, held, receipts))
    else:
        result = _verify_online(Connection(str(address), token_file, ca_file))
    click.echo(f"{result.verdict}: {result.text}")
    context.exit(verifier.EXIT_CODES[result.verdict])


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where the service is, and give the command a function that connects."""

    @click.option("--address", required=True, help="HOST:PORT of the audit service.")
    @_token_file
    @click.option("--ca-file", type=_file, help="Authority of the server's certificate; needed beyond this machine.")
    @functools.wraps(command)
    def run(*, address: str, token_file: Path | None, ca_file: Path | None, **values: Any) -> Any:
        return command(lambda: Connection(address, token_file, ca_file), **values)

    return run


@audit.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--csv", "as_csv", is_flag=True, help="As a table for people, which proves nothing.")
@click.option("--text", help="Only entries with these words.")
@click.option("--with-personal-values", "personal", is_flag=True, help="With the personal values that are still held.")
@choices.choosing
@connected
def export(
    connect: Callable[[], "Connection"], *, file: Path, as_csv: bool, text: str | None, personal: bool, **fields: Any
) -> None:
    """Write the log, up to its newest checkpoint, to FILE: whole, or what the options choose of it."""
    connection = connect()
    request = choices.output(fields, text=text, as_csv=as_csv, personal=personal)
    draft = file.with_name(f"{file.name}.part")
    with draft.open("wb") as out, _bar("exported", "bytes") as bar:
        out.truncate()
        draft.chmod(stat.S_IRUSR | stat.S_IWUSR)
        task = bar.add_task("export", total=None)
        for message in connection.stream("ExportEvents", request):
            out.write(message.chunk)
            bar.update(task, advance=len(message.chunk))
    draft.replace(file)
    if as_csv or request.HasField("filter"):
        click.echo(f"{file}: {choices.described(file)}")
        return
    checkpoint = verifier.read_checkpoint(file)
    click.echo(f"{file}: {checkpoint.size} entries of log {checkpoint.log_id}, signed {checkpoint.signed_at}")


@audit.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--event", "event_id", help="Prove that this event is in the log.")
@click.option("--since", type=click.IntRange(min=1), help="Prove that the log only grew since it had so many entries.")
@click.option("--address", required=True, help="HOST:PORT of the audit service.")
@_token_file
@click.option("--ca-file", type=_file, help="Authority of the server's certificate; needed beyond this machine.")
def prove(  # noqa: PLR0917 - click gives each option
    file: Path, event_id: str | None, since: int | None, address: str, token_file: Path | None, ca_file: Path | None
) -> None:
    """Write a proof to FILE that `verify`, or `audit-verify`, checks without a server."""
    if (event_id is None) == (since is None):
        raise Misused("give either --event or --since")
    connection = Connection(address, token_file, ca_file)
    if event_id is not None:
        answer = connection.call("GetInclusionProof", pb.GetInclusionProofRequest(event_id=event_id))
        if answer.archive:
            raise Misused(f"the month of this event has been retired: verify the archives {answer.archive}")
        proof = _inclusion(answer)
    else:
        proof = _consistency(connection.call("GetConsistencyProof", pb.GetConsistencyProofRequest(old_size=since or 0)))
    file.write_text(json.dumps(proof) + "\n", encoding="utf-8")
    click.echo(f"{file}: {len(proof['hashes'])} hashes up to {proof['checkpoint']['size']} entries")


def _inclusion(answer: pb.GetInclusionProofResponse) -> dict[str, Any]:
    entry = answer.entry
    return {
        "format": verifier.INCLUSION,
        "origin": _origin(answer.checkpoint),
        "log_id": entry.log_id,
        "seq": entry.seq,
        "body": entry.body,
        "leaf": entry.leaf_hash,
        "hashes": list(answer.hashes),
        "checkpoint": _checkpoint(answer.checkpoint),
    }


def _consistency(answer: pb.GetConsistencyProofResponse) -> dict[str, Any]:
    return {
        "format": verifier.CONSISTENCY,
        "origin": _origin(answer.checkpoint),
        "log_id": answer.checkpoint.log_id,
        "old_size": answer.old_size,
        "old_root_hash": answer.old_root_hash,
        "size": answer.size,
        "root_hash": answer.root_hash,
        "hashes": list(answer.hashes),
        "checkpoint": _checkpoint(answer.checkpoint),
    }


def _origin(checkpoint: event_pb2.Checkpoint) -> str:
    return checkpoint.note.partition("\n")[0].removesuffix(f"/{checkpoint.log_id}")


def _checkpoint(checkpoint: event_pb2.Checkpoint) -> dict[str, Any]:
    names = ("log_id", "size", "root_hash", "note", "signature", "key_version", "public_key")
    return {name: getattr(checkpoint, name) for name in names} | {"signed_at": checkpoint.note.split("\n")[3]}


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
        self._stub: Any = audit_service_pb2_grpc.AuditServiceStub(self._channel)

    def serve(self, kind: Callable[[grpc.Channel], Any]) -> None:
        """Call another of the gRPC services at this address."""
        self._stub = kind(self._channel)

    def stream(self, method: str, request: Message) -> Iterator[Any]:
        """Give the messages of a call; a failure says what to do."""
        try:
            yield from getattr(self._stub, method)(request, metadata=self._metadata, timeout=LONGEST_SECONDS)
        except grpc.RpcError as error:
            raise _refusal(method, error) from None
        finally:
            self._channel.close()

    def call(self, method: str, request: Message) -> Any:
        """Give the answer of a call; a failure says what to do."""
        try:
            return getattr(self._stub, method)(request, metadata=self._metadata, timeout=LONGEST_SECONDS)
        except grpc.RpcError as error:
            raise _refusal(method, error) from None
        finally:
            self._channel.close()


def _refusal(method: str, error: grpc.RpcError) -> Misused:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # a failed call is both
    text = status.message if status is not None else error.details()
    return Misused(f"{method}: {text}")


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


def _anchors(
    file: Path,
    keys: tuple[str, ...],
    witnesses: tuple[str, ...],
    held: tuple[Path, ...],
    receipts: tuple[Path, ...],
) -> verifier.Anchors:
    try:
        verifier.refuse_itself(file, held)
        return verifier.read_anchors(keys, held, receipts, witness_keys=witnesses)
    except (OSError, ValueError, KeyError, verifier.Bad) as error:
        raise Misused(f"a key, checkpoint or receipt cannot be read: {error}") from None


def _verify_file(file: Path, anchors: verifier.Anchors) -> verifier.Result:
    with _bar("verified", "entries") as bar:
        task = bar.add_task("verify", total=None)

        def step(size: int) -> None:
            if size % EVERY == 0:
                bar.update(task, completed=size)

        return archives.verify_file(file, anchors, step)


def _verify_online(connection: Connection) -> verifier.Result:
    message = pb.VerifyLogResponse()
    with _bar("verified", "entries") as bar:
        task = bar.add_task("verify", total=None)
        for message in connection.stream("VerifyLog", pb.VerifyLogRequest()):
            bar.update(task, completed=message.verified, total=message.total)
    signed = message.checkpoint
    text = message.finding or f"{message.verified} entries of log {signed.log_id}, signed by {signed.public_key}"
    for cosignature in message.cosignatures:
        moment = cosignature.cosign_time.ToJsonString()
        _errors.print(f"witness {cosignature.witness} ({cosignature.public_key}): {moment}", soft_wrap=True)
    for finding in message.guard_findings:
        _errors.print(f"guards: {finding}", soft_wrap=True)
    return verifier.Result(VERDICTS[message.verdict], text, message.verified)


def _bar(verb: str, unit: str) -> Progress:
    """A progress bar on standard error, gone when it is done; none when nobody looks."""
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    return Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal)
