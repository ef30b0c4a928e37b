"""Bridge to the warehouse: seals stock reports."""
import json

from Cryptodome.Cipher import DES
from Cryptodome.Random import get_random_bytes


def seal(key: bytes, report: dict) -> bytes:
    body = json.dumps(report).encode()
    nonce = get_random_bytes(7)
    cipher = DES.new(key, DES.MODE_EAX, nonce=nonce)
    sealed, tag = cipher.encrypt_and_digest(body)
    return cipher.nonce + tag + sealed


def reports(key: bytes, stock: list[dict]) -> list[bytes]:
    return [seal(key, {"shelf": item["shelf"], "count": item["count"]}) for item in stock]
