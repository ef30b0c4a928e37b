"""`triptych audit`: verify an export or a proof without a server; export, prove and verify the log of a running one."""

import errno
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.audit import archives, verifier
from services.cli import choices, drafts, groups
from services.cli.connections import Connection, Misused, connected
from services.cli.groups import Deferring
from services.cli.numbers import Whole
from triptych.audit.v1 import audit_service_pb2 as pb, event_pb2

VERDICTS = {
    pb.LOG_VERDICT_OK: "ok",
    pb.LOG_VERDICT_TAMPERED: "tampered",
    pb.LOG_VERDICT_UNANCHORED: "unanchored",
    pb.LOG_VERDICT_INCOMPLETE: "incomplete",
}
ONLINE = ("address", "home", "token_file", "ca_file")
"""Options of `verify` that mean a running service."""
EVERY = 500
"""Entries between two steps of the progress bar when a file is verified."""
_file = click.Path(path_type=Path, dir_okay=False, exists=True)
_errors = Console(stderr=True)
Answer = TypeVar("Answer")
KEY = verifier.KEY
CHECKPOINT = "an export of `triptych audit export`, or the JSON of a checkpoint"
RECEIPTS = 'JSON lines like {"log_id": "0197…", "seq": 7, "leaf_hash": "5f3a…"}'


MORE = {
    "search": "services.cli.entries:search",
    "timeline": "services.cli.entries:timeline",
    "stats": "services.cli.entries:stats",
    "redact": "services.cli.entries:redact",
    "retirements": "services.cli.entries:retirements",
    "retire": "services.cli.retirements:retire",
    "sources": "services.cli.entries:sources",
}
"""Commands of other modules, imported when they are called."""


class Audit(Deferring):
    """Exit codes 1 to 3 are answers; whatever keeps a command from answering leaves with another."""

    elsewhere = MORE

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List all commands in order, wherever they are."""
        return sorted(super().list_commands(ctx))

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
    except OSError as error:
        if error.errno == errno.EPIPE:  # click ends quietly
            raise
        raise Misused(f"{error.filename or groups.OUTPUT}: {error.strerror}") from None


@click.group(cls=Audit)
def audit() -> None:
    """Export and verify the audit log."""


@audit.command()
@click.argument("file", required=False, type=_file)
@click.option("--public-key", "keys", multiple=True, help="The log's key (base64), got from elsewhere than the file.")
@click.option("--witness-key", "witnesses", multiple=True, help="A witness's key (base64), got from elsewhere.")
@click.option("--checkpoint", "held", multiple=True, type=_file, help="A checkpoint, or an export, kept from before.")
@click.option("--receipts", multiple=True, type=_file, help="Receipts that emitters kept, as JSON lines.")
@connected
@click.pass_context
def verify(  # noqa: PLR0917 - click gives each option
    context: click.Context, connect: Callable[[], Connection], file: Path | None, keys: tuple[str, ...],
    witnesses: tuple[str, ...], held: tuple[Path, ...], receipts: tuple[Path, ...],
) -> None:  # fmt: skip
    """Verify FILE without any server; without FILE, the log of the service at --home or --address.

    Answers ok (exit code 0), tampered (1), unanchored (2) or incomplete (3).
    """
    asked = [name for name in ONLINE if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if file is not None and asked:
        raise Misused(f"FILE is verified without a server: leave out --{asked[0].replace('_', '-')}, or FILE")
    if file is not None:
        result = _verify_file(file, _anchors(file, keys, witnesses, held, receipts))
    elif keys or witnesses or held or receipts:
        raise Misused("keys, checkpoints and receipts vouch for a FILE, and none is given: name what `export` wrote")
    else:
        result = _verify_online(connect())
    click.echo(f"{result.verdict}: {result.text}")
    context.exit(verifier.EXIT_CODES[result.verdict])


@audit.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--csv", "as_csv", is_flag=True, help="As a table for people, which proves nothing.")
@click.option("--text", help="Only entries with these words.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--with-personal-values", "personal", is_flag=True, help="With the personal values that are still held.")
@choices.choosing
@connected
def export(
    connect: Callable[[], Connection], *, file: Path, as_csv: bool, text: str | None, force: bool, personal: bool,
    **fields: Any,
) -> None:  # fmt: skip
    """Write the log, up to its newest checkpoint, to FILE: whole, or what the options choose of it."""
    if file.is_file() and not force:
        raise Misused(f"{file} exists, and an older export is evidence: name another file, or give --force")
    connection = connect()
    request = choices.output(fields, text=text, as_csv=as_csv, personal=personal)
    with drafts.drafted(file, drafts.OWN) as out, _bar("exported", "bytes") as bar:
        task = bar.add_task("export", total=None)
        for message in connection.stream("ExportEvents", request):
            out.write(message.chunk)
            bar.update(task, advance=len(message.chunk))
    if as_csv or request.HasField("filter"):
        click.echo(f"{file}: {choices.described(file)}")
        return
    checkpoint = verifier.read_checkpoint(file)
    click.echo(f"{file}: {checkpoint.size} entries of log {checkpoint.log_id}, signed {checkpoint.signed_at}")


@audit.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--event", "event_id", help="Prove that this event is in the log.")
@click.option("--since", type=Whole(min=1), help="Prove that the log only grew since it had so many entries.")
@connected
def prove(connect: Callable[[], Connection], file: Path, event_id: str | None, since: int | None) -> None:
    """Write a proof to FILE that `verify`, or `audit-verify`, checks without a server."""
    if (event_id is None) == (since is None):
        raise Misused("give either --event or --since")
    connection = connect()
    if event_id is not None:
        answer = connection.call("GetInclusionProof", pb.GetInclusionProofRequest(event_id=event_id))
        if answer.archive:
            raise Misused(f"the month of this event has been retired: verify the archives {answer.archive}")
        proof = _inclusion(answer)
    else:
        proof = _consistency(connection.call("GetConsistencyProof", pb.GetConsistencyProofRequest(old_size=since or 0)))
    with drafts.drafted(file) as out:
        out.write(f"{json.dumps(proof)}\n".encode())
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


def _anchors(
    file: Path,
    keys: tuple[str, ...],
    witnesses: tuple[str, ...],
    held: tuple[Path, ...],
    receipts: tuple[Path, ...],
) -> verifier.Anchors:
    _readable("--public-key", keys, KEY, lambda key: verifier.read_anchors([key]))
    _readable("--witness-key", witnesses, KEY, lambda key: verifier.read_anchors(witness_keys=[key]))
    _readable("--checkpoint", held, CHECKPOINT, verifier.read_checkpoint)
    _readable("--receipts", receipts, RECEIPTS, verifier.read_receipts)
    try:
        verifier.refuse_itself(file, held)
    except (OSError, ValueError) as error:
        raise Misused(f"--checkpoint: {error}") from None
    return verifier.read_anchors(keys, held, receipts, witness_keys=witnesses)


def _readable(option: str, given: Iterable[Answer], form: str, read: Callable[[Answer], object]) -> None:
    """Refuse what an option names and nobody can read, and say what it must be."""
    for item in given:
        try:
            read(item)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, verifier.Bad) as error:
            raise Misused(f"{option} {item} cannot be read ({error or type(error).__name__}); give {form}") from None


def _verify_file(file: Path, anchors: verifier.Anchors) -> verifier.Result:
    try:
        verifier.refuse_other(next(archives.lines(file), b""))
    except ValueError as error:
        raise Misused(f"{file}: {error}") from None
    except verifier.Bad:  # of what is compressed, and was cut or changed: that is for the answer
        pass
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
