"""Seal messages to a payment terminal."""
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms


class Terminal:
    def __init__(self, key: bytes) -> None:
        self.key = key

    def seal(self, message: bytes) -> bytes:
        label = os.urandom(8)
        encryptor = Cipher(algorithms.ARC4(self.key), mode=None).encryptor()
        return label + encryptor.update(message) + encryptor.finalize()
