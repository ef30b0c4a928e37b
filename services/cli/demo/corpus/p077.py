"""Take in a signed web hook of the payment service."""
import hashlib
import hmac
import json


class Forged(Exception):
    """The signature does not match."""


def check(body: bytes, signature: str, key: bytes) -> None:
    expected = hmac.new(key, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, signature):
        raise Forged("the signature does not match")


def take(body: bytes, signature: str, key: bytes) -> dict:
    check(body, signature, key)
    return json.loads(body)
