"""What people hold in their hands: an authenticator app, and passkeys with the browser that speaks to them."""

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.twofactor.totp import TOTP

ORIGIN = "https://triptych.test"
RP_ID = "triptych.test"
PRESENT, VERIFIED, CREDENTIAL = 0x01, 0x04, 0x40


@dataclass
class App:
    """An authenticator app with one secret."""

    secret: str

    def code(self, steps: int = 0) -> str:
        """Give the code of now, or of so many steps from now."""
        device = TOTP(base64.b32decode(self.secret), 6, SHA1(), 30)  # noqa: S303 - RFC 6238
        return device.generate(int(time.time()) + 30 * steps).decode()

    def wrong(self) -> str:
        """Give six digits that are no code of these minutes."""
        near = {self.code(steps) for steps in range(-4, 5)}
        return next(code for code in map("{:06}".format, range(1_000_000)) if code not in near)


@dataclass
class Passkey:
    """One key pair, and a browser on a page of `origin`. What it says can be bent, as an attacker would."""

    origin: str = ORIGIN
    rp_id: str = RP_ID
    verified: bool = True
    counts: bool = True
    count: int = 0
    aaguid: bytes = bytes(16)
    handle: bytes = b""
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def id(self) -> bytes:
        """The credential's id."""
        return hashlib.sha256(str(self.key.private_numbers().private_value).encode()).digest()

    def register(self, options_json: str, **changes: Any) -> str:
        """Answer navigator.credentials.create()."""
        options = json.loads(options_json)
        self.handle = decode(options["user"]["id"])
        numbers = self.key.public_key().public_numbers()
        public = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}
        credential = self.aaguid + len(self.id).to_bytes(2) + self.id + cbor2.dumps(changes.pop("public", public))
        data = self._data(CREDENTIAL) + credential
        attestation = cbor2.dumps({"fmt": changes.pop("fmt", "none"), "attStmt": {}, "authData": data})
        client = self._client("webauthn.create", options["challenge"], changes)
        response = {"clientDataJSON": client, "attestationObject": encode(attestation), "transports": ["internal", "x"]}
        return self._answer(response)

    def use(self, options_json: str, **changes: Any) -> str:
        """Answer navigator.credentials.get()."""
        options = json.loads(options_json)
        self.count += self.counts
        data = changes.pop("data", None) or self._data()
        handle = changes.pop("handle", self.handle)
        client = self._client("webauthn.get", options["challenge"], changes)
        signature = self.key.sign(data + hashlib.sha256(decode(client)).digest(), ec.ECDSA(SHA256()))
        response = {"clientDataJSON": client, "authenticatorData": encode(data), "signature": encode(signature)}
        if handle is not None:
            response["userHandle"] = encode(handle)
        return self._answer(response)

    def _data(self, flags: int = 0) -> bytes:
        flags |= PRESENT | (VERIFIED if self.verified else 0)
        return hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.count.to_bytes(4)

    def _client(self, kind: str, challenge: str, changes: dict[str, Any]) -> str:
        said = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False} | changes
        return encode(json.dumps(said).encode())

    def _answer(self, response: dict[str, Any]) -> str:
        return json.dumps({"id": encode(self.id), "rawId": encode(self.id), "type": "public-key", "response": response})


def encode(data: bytes) -> str:
    """Write base64url as browsers do."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Read it."""
    return base64.urlsafe_b64decode(f"{text}===")
