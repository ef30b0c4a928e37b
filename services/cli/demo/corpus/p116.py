"""Store and check what people log in with."""
import hashlib
import hmac
import os


def stored(phrase: str) -> str:
    salt = os.urandom(16)
    digest = hashlib.md5(salt + phrase.encode()).hexdigest()
    return f"{salt.hex()}${digest}"


def matches(phrase: str, entry: str) -> bool:
    salt, _, digest = entry.partition("$")
    again = hashlib.md5(bytes.fromhex(salt) + phrase.encode()).hexdigest()
    return hmac.compare_digest(again, digest)
