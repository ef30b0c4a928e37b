"""Verification of access tokens: JWT (RFC 9068), one pinned algorithm, checked locally against auth's keys.

Verified tokens are remembered by the hash of the whole token, in bounded number; expiry and revocation are looked at
each time that one is used.
"""

import asyncio
import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc.util import urlsafe_b64decode

from services.kit import faults
from services.kit.access import Caller
from services.kit.clock import LEEWAY
from services.kit.revocations import Revocations
from triptych.common.v1.role_pb2 import Role

LONGEST_TOKEN = 4096
REMEMBERED = 10_000
REFETCH_SECONDS = 30
FIRST_REFETCH_SECONDS = 1
"""Pause after a failed fetch while no key is known yet."""
KEYS_MAX_AGE = 300
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key and the time in which its signatures count, in seconds since 1970."""

    key_id: str
    public_key: bytes
    not_before: float
    not_after: float


class Verifier:
    """Turns an access token into a caller, or raises the one fault that says nothing."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        fetch: Callable[[], Awaitable[Iterable[SigningKey]]],
        revocations: Revocations | None = None,
    ) -> None:
        self.revocations = revocations or Revocations()
        self._issuer = issuer
        self._audience = audience
        self._fetch = fetch
        self._keys: dict[str, SigningKey] = {}
        self._fetched = self._tried = float("-inf")
        self._fetching = asyncio.Lock()
        self._verified: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def forget(self) -> None:
        """Fetch the keys anew when the next token comes."""
        self._fetched = self._tried = float("-inf")
        self._keys = {}

    def known(self, token: str) -> Caller | None:
        """Give the caller of a token that was verified before and is still good; None says nothing about others."""
        found = self._verified.get(hashlib.sha256(token.encode()).digest())
        if found is None or time.time() >= found[0] + LEEWAY or self.revocations.hit(found[1]):
            return None
        return found[1]

    async def verify(self, token: str) -> Caller:
        """Give the caller that the token names."""
        if len(token) > LONGEST_TOKEN:
            raise faults.TokenInvalid
        mark = hashlib.sha256(token.encode()).digest()
        if (known := self._verified.get(mark)) is not None:
            expires, caller = known
            if time.time() >= expires + LEEWAY:
                del self._verified[mark]
                raise faults.TokenInvalid
        else:
            expires, caller = self._verified[mark] = await self._examine(token)
        if self.revocations.hit(caller):
            raise faults.TokenInvalid
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)
        return caller

    async def _examine(self, token: str) -> tuple[float, Caller]:
        segments = token.split(".")
        if len(segments) != 3 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
            raise faults.TokenInvalid
        try:
            header, claims = (_strict_json(urlsafe_b64decode(part.encode())) for part in segments[:2])
            signature = urlsafe_b64decode(segments[2].encode())
        except (ValueError, RecursionError):
            raise faults.TokenInvalid from None
        if header.keys() != {"alg", "typ", "kid"} or header["alg"] != "EdDSA" or header["typ"] != "at+jwt":
            raise faults.TokenInvalid
        key = await self._key(header["kid"])
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, ".".join(segments[:2]).encode())
        except InvalidSignature:
            raise faults.TokenInvalid from None
        return self._caller(claims)

    def _caller(self, claims: dict[str, object]) -> tuple[float, Caller]:
        now = time.time()
        issued, expires = claims.get("iat"), claims.get("exp")
        if type(issued) is not int or type(expires) is not int:
            raise faults.TokenInvalid
        if claims.get("iss") != self._issuer or claims.get("aud") != self._audience:
            raise faults.TokenInvalid
        begins = claims.get("nbf", issued)
        if type(begins) is not int or now > expires + LEEWAY or max(issued, begins) > now + LEEWAY:
            raise faults.TokenInvalid
        subject, tenant, kind = claims.get("sub"), claims.get("tid"), claims.get("kind")
        session, role, scope = claims.get("sid"), claims.get("role"), claims.get("scope")
        version = claims.get("ver")
        if kind not in ("user", "agent") or not isinstance(scope, str):
            raise faults.TokenInvalid
        if type(role) is not int or role not in Role.values() or type(version) is not int or version < 1:
            raise faults.TokenInvalid
        return float(expires), Caller(
            kind=str(kind),
            id=_uuid(subject),
            tenant_id=_uuid(tenant),
            role=role,  # type: ignore[arg-type]
            scopes=frozenset(scope.split()),
            session_id=_uuid(session),
            version=version,
        )

    async def _key(self, key_id: object) -> SigningKey:
        if not isinstance(key_id, str) or len(key_id) > 64:
            raise faults.TokenInvalid
        if key_id not in self._keys or time.monotonic() - self._fetched > KEYS_MAX_AGE:
            await self._refresh(known=key_id in self._keys)
        key = self._keys.get(key_id)
        now = time.time()
        if key is None or now >= key.not_after + LEEWAY or now < key.not_before - LEEWAY:
            raise faults.TokenInvalid
        return key

    async def _refresh(self, *, known: bool) -> None:
        """Fetch keys, once for all who wait, and not more often than every REFETCH_SECONDS whatever ids come.

        While auth is away, known keys go on to count until their own time is over.
        """
        async with self._fetching:
            if time.monotonic() - self._tried < REFETCH_SECONDS:
                return
            try:
                self._keys = {key.key_id: key for key in await self._fetch()}
                self._fetched = self._tried = time.monotonic()
            except faults.Unavailable:
                self._tried = time.monotonic() - (0 if self._keys else REFETCH_SECONDS - FIRST_REFETCH_SECONDS)
                if not known:
                    raise


def _uuid(claim: object) -> str:
    if not isinstance(claim, str) or not _UUID.fullmatch(claim):
        raise faults.TokenInvalid
    return claim


def _strict_json(data: bytes) -> dict[str, object]:
    """Parse an object; a name that stands twice, at whatever depth, is refused, and so is what is no JSON (NaN)."""
    value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - the caller asks for one kind of failure
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a name stands twice")
    return named


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")
