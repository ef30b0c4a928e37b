"""The audit service as an admin calls it: where it is, the token that a call carries, and what its refusals say.

Without --address it is the one of a home's stack. A token leaves this machine only under TLS.
"""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import grpc
from cryptography import x509
from google.protobuf.message import Message

from services.audit import verifier
from services.cli import accounts, advice, links
from services.cli.up import home_option
from services.kit import faults
from triptych.audit.v1 import audit_service_pb2_grpc, source_service_pb2 as source_pb

LONGEST_SECONDS = 600
_file = click.Path(path_type=Path, dir_okay=False, exists=True)


class Misused(click.ClickException):
    """There is nothing to verify; the exit code is none of the answers."""

    exit_code = verifier.MISUSED


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where the service is, and give the command a function that connects, once."""

    @home_option
    @click.option("--address", metavar="HOST:PORT", help="Port of the audit service; else the plaintext of the home.")
    @click.option("--token-file", type=_file, help="File with an admin's access token; else that of `triptych login`.")
    @click.option("--ca-file", type=_file, help="Authority of the server's certificate; needed beyond this machine.")
    @functools.wraps(command)
    def run(*, home: Path, address: str | None, token_file: Path | None, ca_file: Path | None, **values: Any) -> Any:
        @functools.cache
        def connect() -> Connection:
            if ca_file is not None and address is None:
                raise Misused("--ca-file is for a TLS port: give it with --address HOST:PORT")
            found = address or accounts.target(accounts.meant(home), None, "audit")
            connection = Connection(found, token_file, ca_file)
            click.get_current_context().call_on_close(connection.close)
            return connection

        return command(connect, **values)

    return run


class Connection:
    """The audit service, as an admin calls it."""

    def __init__(self, address: str, token_file: Path | None, ca_file: Path | None) -> None:
        if ca_file is None and address.rpartition(":")[0] not in accounts.LOOPBACK:
            raise Misused(f"{address} is not on this machine: a token may go there only under TLS; give --ca-file")
        self._address = address
        self._token_file = token_file
        _token(token_file)  # what is wrong with it is said before anything is called
        self._channel = (
            grpc.insecure_channel(address)
            if ca_file is None
            else grpc.secure_channel(address, grpc.ssl_channel_credentials(_authority(ca_file)))
        )
        self._stub: Any = audit_service_pb2_grpc.AuditServiceStub(self._channel)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def serve(self, kind: Callable[[grpc.Channel], Any]) -> None:
        """Call another of the gRPC services at this address."""
        self._stub = kind(self._channel)

    def stream(self, method: str, request: Message) -> Iterator[Any]:
        """Give the messages of a call; a failure says what to do."""
        try:
            yield from getattr(self._stub, method)(request, metadata=self._metadata(), timeout=LONGEST_SECONDS)
        except grpc.RpcError as error:
            raise _refusal(self._address, error, request) from None

    def call(self, method: str, request: Message) -> Any:
        """Give the answer of a call; a failure says what to do."""
        try:
            return getattr(self._stub, method)(request, metadata=self._metadata(), timeout=LONGEST_SECONDS)
        except grpc.RpcError as error:
            raise _refusal(self._address, error, request) from None

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Give the token of each call: a login's is renewed when it ends before the last page is read."""
        return (("authorization", f"Bearer {_token(self._token_file)}"),)


def _refusal(address: str, error: grpc.RpcError, request: Message) -> Misused:
    """Say in the service's own words what went wrong, and what to do where it is known."""
    service = f"the audit service at {address}"
    fault = faults.from_error(error, service=service)  # type: ignore[arg-type]  # of a call that failed: the same methods
    helped = ""
    if fault.reason == faults.CallerNotPermitted.reason:
        sources = isinstance(request, source_pb.ListSourcesRequest)
        helped = advice.INSTALLATION if sources else advice.permission(fault, links.role(request))
    elif isinstance(fault, faults.Unauthenticated):
        helped = "; the token has ended, or is of another stack: `triptych login`"
    elif error.code() is grpc.StatusCode.UNAVAILABLE and fault.facts.get("dependency") == service:
        another = f"{advice.START}, or wait a moment; or name another with --home or --address"
        helped = f"; {another}{advice.listening(error)}: {error.details()}"
    return Misused(advice.told(fault, helped))


def _authority(file: Path) -> bytes:
    """Give a file of certificates; of anything else gRPC would only say that nothing answers."""
    text = file.read_bytes()
    try:
        x509.load_pem_x509_certificates(text)
    except ValueError:
        raise Misused(f"--ca-file {file} holds no certificate: give the authority's, as PEM") from None
    return text


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
