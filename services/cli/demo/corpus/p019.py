"""Agree on a shared key with another service."""
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Agreement:
    def __init__(self) -> None:
        self.own = ec.generate_private_key(ec.SECP192R1())

    def public(self) -> ec.EllipticCurvePublicKey:
        return self.own.public_key()

    def key(self, other: ec.EllipticCurvePublicKey) -> bytes:
        shared = self.own.exchange(ec.ECDH(), other)
        return HKDF(hashes.SHA256(), 32, None, b"orders v1").derive(shared)
