"""Make the key of a new device."""
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


def make(folder: Path, device: str, phrase: bytes) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    target = folder / f"{device}.pem"
    target.touch(mode=0o600)
    target.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(phrase),
        )
    )
    return target
