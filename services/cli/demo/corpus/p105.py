"""Seal messages to a payment terminal."""
import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Terminal:
    def __init__(self, key: bytes) -> None:
        self.key = key

    def seal(self, message: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + AESGCM(self.key).encrypt(nonce, message, None)
