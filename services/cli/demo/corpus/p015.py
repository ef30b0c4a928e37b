"""Keep notes encrypted at rest."""
import os

from cryptography.fernet import Fernet


class Notes:
    def __init__(self, key: bytes) -> None:
        self.box = Fernet(key)
        self.kept: dict[str, bytes] = {}

    def keep(self, note: str) -> str:
        name = os.urandom(8).hex()
        self.kept[name] = self.box.encrypt(note.encode())
        return name
