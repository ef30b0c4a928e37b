"""Endpoints of providers: which addresses this service may send a key to.

Refused: anything but https, users, queries and fragments in the address, and every host that resolves to an address
that is not public. The address that was checked is the one that is connected to, so changing DNS helps nobody.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from services.kit.faults import InvalidArgument

LOOPBACK = "127.0.0.1"
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
"""Names whose last part is a number: resolvers take them for IPv4 addresses in an old form, as 127.1 or 0x7f000001."""
_TRANSLATED = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""IPv6 that leads to IPv4 addresses which nobody checked."""
_MISSED = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "fec0::/10")))
"""Special addresses that Python takes for public: of protocols, relays, documentation, sites."""


class EndpointRefused(InvalidArgument):
    """The address is not one that a key may be sent to."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the endpoint is refused: {problem}", problem=problem)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked base address."""

    scheme: str
    host: str
    port: int
    path: str
    """Without a slash at its end."""

    @property
    def authority(self) -> str:
        """Host and, unless it is the usual one, port: as the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.scheme == "https" else 80
        return host if self.port == usual else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Pinned:
    """An endpoint at the address that was checked."""

    endpoint: Endpoint
    address: str

    def url(self, path: str) -> str:
        """Give the URL of a path below the endpoint, with the checked address in the place of the host."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.endpoint.scheme}://{host}:{self.endpoint.port}{self.endpoint.path}{path}"


def parse(text: str, *, allow_loopback: bool) -> Endpoint:
    """Check all of an address that can be checked without asking DNS."""
    parts, port = _split(text)
    host = parts.hostname or ""
    if parts.username is not None or parts.password is not None:
        raise EndpointRefused("it must not name a user")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise EndpointRefused("it must have neither query nor fragment")
    if re.search(r"[^!-~]|[\\%]|/\.\.?(/|$)", text):
        raise EndpointRefused("it must be plain ASCII without escapes; write a host in its xn-- form")
    loopback = allow_loopback and host == LOOPBACK
    if parts.scheme != "https" and not (loopback and parts.scheme == "http"):
        raise EndpointRefused("the scheme must be https")
    literal = _literal(host)
    if literal is None and (not _HOST.fullmatch(host) or _NUMBER.fullmatch(host) or "[" in parts.netloc):
        raise EndpointRefused("it has no usable host name")
    if port == 0:
        raise EndpointRefused("0 is no port")
    if literal is not None and not loopback and (problem := special(literal)):
        raise EndpointRefused(f"the address is {problem}")
    return Endpoint(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/"))


def trust(text: str) -> Endpoint:
    """Read the address that an operator set: http too, and any host, for it is nobody else's word."""
    parts, port = _split(text)
    host = parts.hostname or ""
    named = parts.username is not None or parts.password is not None
    usable = _literal(host) is not None or _HOST.fullmatch(host)
    if parts.scheme not in {"http", "https"} or not usable or named or parts.query:
        raise EndpointRefused("it must be http://HOST:PORT/PATH or https, without user and query")
    return Endpoint(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/"))


async def pin(endpoint: Endpoint, *, allow_loopback: bool, resolve: Resolver) -> Pinned:
    """Resolve the host and give the address to connect to; one that is not public condemns them all."""
    if allow_loopback and endpoint.host == LOOPBACK:
        return Pinned(endpoint, LOOPBACK)
    addresses = await resolve(endpoint.host, endpoint.port)
    for address in addresses:
        if problem := special(ipaddress.ip_address(address)):
            raise EndpointRefused(f"the address is {problem}")
    return Pinned(endpoint, addresses[0])


def special(address: Address) -> str:
    """Say what is special about an address; empty for a public one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or address.sixtofour is not None or address.teredo is not None:
            return "IPv4 inside IPv6"
        if any(address in network for network in _TRANSLATED) and not address.is_loopback:
            return "IPv4 inside IPv6" if not address.is_unspecified else "unspecified"
    for name in ("loopback", "link_local", "multicast", "unspecified", "private", "reserved"):
        if getattr(address, f"is_{name}"):
            return name.replace("_", "-")
    missed = any(address in network for network in _MISSED if network.version == address.version)
    return "not public" if missed or not address.is_global else ""


def _split(text: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise EndpointRefused("it is no URL") from None
    return parts, port


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
