"""Store and check what people log in with."""
import hashlib
import hmac
import os


def stored(phrase: str) -> str:
    salt = os.urandom(16)
    digest = hashlib.scrypt(phrase.encode(), salt=salt, n=2**15, r=8, p=1, maxmem=2**26).hex()
    return f"{salt.hex()}${digest}"


def matches(phrase: str, entry: str) -> bool:
    salt, _, digest = entry.partition("$")
    again = hashlib.scrypt(phrase.encode(), salt=bytes.fromhex(salt), n=2**15, r=8, p=1, maxmem=2**26).hex()
    return hmac.compare_digest(again, digest)
