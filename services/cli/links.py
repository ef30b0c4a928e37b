"""One channel to a service for as long as a command runs: calls as whoever is logged in, pages and streams.

Failures are told in the service's own words, with the command that helps. Nothing leaves this machine.
"""

import functools
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Final

import click
import grpc
from google.protobuf.message import Message

from services.cli import accounts, advice
from services.cli.up import home_option
from services.kit import faults
from triptych.common.v1 import options_pb2

PAGE: Final = 200
SECONDS: Final = 60
"""How long an ordinary call may take; the services end most of them sooner."""
_OPTIONS: Final = (("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0))
address_option = click.option(
    "--address",
    metavar="HOST:PORT",
    help="Plaintext port of the providers service, on loopback; else that of the home.",
)


class Link:
    """A service of one installation, as who is logged in."""

    def __init__(self, service: str, address: str, helping: Callable[[faults.Fault], str] = lambda _: "") -> None:
        self.service = f"the {service} service at {address}"
        self._helping = helping
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def call(self, kind: Callable[[Any], Any], method: str, request: Any, *, seconds: float = SECONDS) -> Any:
        """Give the answer of a call; a change gets a request_id. Who is interrupted lets go of the call."""
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid.uuid4())
        metadata = _metadata()
        pending = getattr(kind(self._channel), method).future(request, metadata=metadata, timeout=seconds)
        try:
            return pending.result()
        except grpc.RpcError as error:
            raise self._refusal(error, request) from None
        finally:
            pending.cancel()

    def listed(self, kind: Callable[[Any], Any], method: str, request: Any, limit: int) -> Iterator[Any]:
        """Give up to `limit` resources of a list, page after page as they are wanted."""
        return pages(lambda: self.call(kind, method, request), request, limit)

    def stream(
        self, kind: Callable[[Any], Any], method: str, request: Message, *, seconds: float
    ) -> Generator[Any, None, None]:
        """Give the messages of a call as they come; whoever stops to read ends it."""
        if "request_id" in request.DESCRIPTOR.fields_by_name:
            request.request_id = str(uuid.uuid4())  # type: ignore[attr-defined]
        call = getattr(kind(self._channel), method)(request, metadata=_metadata(), timeout=seconds)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._refusal(error, request) from None
        finally:
            call.cancel()

    def _refusal(self, error: grpc.RpcError, request: Message) -> "Refused":
        fault = faults.from_error(error, service=self.service)  # type: ignore[arg-type]  # the same methods
        if fault.reason == faults.CallerNotPermitted.reason:
            return Refused(fault, advice.permission(fault, role(request)))
        return Refused(fault, self._helping(fault), advice.listening(error))


def pages(call: Callable[[], Any], request: Any, limit: int) -> Iterator[Any]:
    """Give up to `limit` resources of a list; the request is called again for each page, as it is wanted."""
    while limit > 0:
        request.page_size = min(limit, PAGE)
        answer = call()
        resources = getattr(answer, answer.DESCRIPTOR.fields[0].name)
        yield from resources[:limit]
        limit -= len(resources)
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


class Refused(click.ClickException):
    """A service said no, or nothing."""

    def __init__(self, fault: faults.Fault, helped: str, wrong: str = "") -> None:
        super().__init__(f"{advice.told(fault, helped)}{wrong}")
        self.fault = fault


def auth() -> Link:
    """Give the link to the auth service that gave the kept tokens."""
    address = accounts.kept()["address"]
    return _kept("auth", address, accounts.again(address))


def providing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where the providers service is, and give the command its link first."""

    @home_option
    @address_option
    @functools.wraps(command)
    def run(*, home: Path, address: str | None, **values: Any) -> Any:
        return command(_kept("providers", _found(home, address)), **values)

    return run


def _found(home: Path, address: str | None) -> str:
    """Give the address of the providers service, to somebody who is logged in."""
    accounts.kept()
    return accounts.target(accounts.meant(home), address, "providers")


def _kept(service: str, address: str, helping: Callable[[faults.Fault], str] = lambda _: "") -> Link:
    """Give the command's link to a service; it is closed when the command ends."""
    context = click.get_current_context().find_root()
    links: dict[str, Link] = context.meta.setdefault("services.cli.links", {})
    if service not in links:
        links[service] = Link(service, address, helping)
        context.call_on_close(links[service].close)
    return links[service]


def role(request: Message) -> int:
    """Give the least role of the method that takes this request."""
    for service in request.DESCRIPTOR.file.services_by_name.values():
        for method in service.methods:
            if method.input_type is request.DESCRIPTOR:
                return int(method.GetOptions().Extensions[options_pb2.access].role)
    return 0


def _metadata() -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {accounts.kept()['access_token']}"),)
