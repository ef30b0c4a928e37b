"""Encrypt scanned documents before they leave the office."""
import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def encrypt(key: bytes, document: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, document, b"scan")


def encrypt_all(key: bytes, documents: dict[str, bytes]) -> dict[str, bytes]:
    return {name: encrypt(key, document) for name, document in documents.items()}
