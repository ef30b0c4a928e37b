"""Record of failed logins, one line each."""
import datetime
import json
from pathlib import Path

RECORD = Path("/var/log/shop/logins.log")


def note(user: str, address: str) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with RECORD.open("a") as record:
        record.write(json.dumps({"at": now, "user": user, "address": address}) + "\n")


def count() -> int:
    with RECORD.open() as record:
        return sum(1 for _ in record)
