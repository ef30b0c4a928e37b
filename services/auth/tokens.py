"""Tokens: access tokens are signed (JWT, RFC 9068), refresh tokens are secrets that prove their place in a family.

A refresh token is `trr_<tenant>_<generation>_<secret><mac>`. The secret (256 random bits) is shared by all tokens of
a session and stored as SHA-256; the MAC over tenant, generation and secret is made with a key that OpenBao gives. So
the successor of a token can be computed from it without storing any, the same one each time; an old token is known
for what it is; and neither the database nor the key alone is enough to make one.
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from services.auth.keys import Keys
from services.auth.settings import AuthSettings
from services.kit.db import Row
from triptych.auth.v1 import agent_credential_service_pb2 as agent_pb, auth_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

_REFRESH = re.compile(r"trr_([0-9a-f]{32})_(0|[1-9][0-9]{0,8})_([A-Za-z0-9_-]{43})([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """One token of a family: which tenant, which family, which generation."""

    tenant_id: str
    generation: int
    secret: str

    @property
    def digest(self) -> bytes:
        """What is stored of the family."""
        return hashlib.sha256(self.secret.encode()).digest()

    @property
    def successor(self) -> "RefreshToken":
        """The one after this."""
        return replace(self, generation=self.generation + 1)


class RefreshTokens:
    """Writes and reads refresh tokens."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def begin(self, tenant_id: str) -> RefreshToken:
        """Give the first token of a new family."""
        return RefreshToken(tenant_id, 0, secrets.token_urlsafe(32))

    def text(self, token: RefreshToken) -> str:
        """Give the token as its owner holds it."""
        return f"{_stem(token)}{self._mac(token)}"

    def parse(self, text: str) -> RefreshToken | None:
        """Read a token; None when it is not one that was given."""
        found = _REFRESH.fullmatch(text)
        if found is None:
            return None
        token = RefreshToken(str(uuid.UUID(found[1])), int(found[2]), found[3])
        return token if hmac.compare_digest(self._mac(token), found[4]) else None

    def _mac(self, token: RefreshToken) -> str:
        return _encode(hmac.digest(self._key, _stem(token).encode(), "sha256"))


class Minting:
    """Gives tokens: pairs of them for sessions, access tokens alone for agents."""

    def __init__(self, *, keys: Keys, refresh: RefreshTokens, settings: AuthSettings) -> None:
        self.refresh = refresh
        self._keys = keys
        self._settings = settings

    def pair(self, session: Row, role: "Role.ValueType", refresh: RefreshToken) -> pb.Tokens:
        """Sign an access token for the session, beside its refresh token."""
        who = {"sub": session["user_id"], "sid": session["id"], "tid": session["tenant_id"]}
        access, expires = self.access(who, kind="user", role=int(role), ver=session["token_version"])
        tokens = pb.Tokens(
            access_token=access,
            refresh_token=self.refresh.text(refresh),
            refresh_expire_time=session["idle_expire_time"],
        )
        tokens.access_expire_time.seconds = expires
        return tokens

    def of_agent(self, credential: Row, scopes: Sequence[str]) -> agent_pb.ExchangeAgentCredentialResponse:
        """Sign an access token for an agent's credential, that ends with the credential at the latest."""
        who = {"sub": credential["agent_id"], "sid": credential["id"], "tid": credential["tenant_id"]}
        access, expires = self.access(
            who,
            kind="agent",
            role=int(Role.ROLE_UNSPECIFIED),
            ver=credential["token_version"],
            scope=" ".join(scopes),
            until=int(credential["end_time"].timestamp()),
        )
        answer = agent_pb.ExchangeAgentCredentialResponse(
            access_token=access, agent_id=str(who["sub"]), tenant_id=str(who["tid"]), scopes=scopes
        )
        answer.access_expire_time.seconds = expires
        return answer

    def access(
        self, who: Mapping[str, object], *, kind: str, role: int, ver: int, scope: str = "", until: int | None = None
    ) -> tuple[str, int]:
        """Sign an access token of somebody (`sub`, `sid`, `tid`), and say when it ends: at `until` at the latest."""
        now = int(time.time())
        expires = now + self._settings.access_seconds
        if until is not None:
            expires = min(expires, until)
        claims = {
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            **{name: str(value) for name, value in who.items()},
            "iat": now,
            "exp": expires,
            "jti": secrets.token_urlsafe(16),
            "kind": kind,
            "role": role,
            "scope": scope,
            "ver": ver,
        }
        return self._sign(claims), expires

    def _sign(self, claims: dict[str, object]) -> str:
        key = self._keys.current()
        header = {"alg": "EdDSA", "typ": "at+jwt", "kid": key.key_id}
        signed = f"{_encode(orjson.dumps(header))}.{_encode(orjson.dumps(claims))}"
        return f"{signed}.{_encode(key.private.sign(signed.encode()))}"


def _stem(token: RefreshToken) -> str:
    return f"trr_{uuid.UUID(token.tenant_id).hex}_{token.generation}_{token.secret}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
