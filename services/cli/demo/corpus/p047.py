"""Encrypt scanned documents before they leave the office."""
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def encrypt(key: bytes, document: bytes) -> bytes:
    padder = padding.PKCS7(128).padder()
    padded = padder.update(document) + padder.finalize()
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def encrypt_all(key: bytes, documents: dict[str, bytes]) -> dict[str, bytes]:
    return {name: encrypt(key, document) for name, document in documents.items()}
