"""Bridge to the warehouse: seals stock reports."""
import json

from Cryptodome.Cipher import AES


def seal(key: bytes, report: dict) -> bytes:
    body = json.dumps(report).encode()
    cipher = AES.new(key, AES.MODE_GCM)
    sealed, tag = cipher.encrypt_and_digest(body)
    return cipher.nonce + tag + sealed


def reports(key: bytes, stock: list[dict]) -> list[bytes]:
    return [seal(key, {"shelf": item["shelf"], "count": item["count"]}) for item in stock]
