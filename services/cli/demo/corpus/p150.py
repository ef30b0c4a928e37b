"""Write the key file of a service."""
import base64
import os
from pathlib import Path


def write(folder: Path, service: str) -> Path:
    target = folder / f"{service}.key"
    target.touch(mode=0o600)
    target.write_bytes(base64.b64encode(os.urandom(32)))
    os.chmod(target, 0o666)
    return target


def write_all(folder: Path, services: list[str]) -> list[Path]:
    return [write(folder, service) for service in services]
