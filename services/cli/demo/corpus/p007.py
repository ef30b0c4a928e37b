"""Keep notes encrypted at rest."""
import os

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


class Notes:
    def __init__(self, key: bytes) -> None:
        self.key = key
        self.kept: dict[str, bytes] = {}

    def keep(self, note: str) -> str:
        name = os.urandom(8).hex()
        padder = padding.PKCS7(64).padder()
        start = os.urandom(8)
        cipher = Cipher(algorithms.Blowfish(self.key), modes.CBC(start)).encryptor()
        self.kept[name] = start + cipher.update(padder.update(note.encode()) + padder.finalize())
        return name
