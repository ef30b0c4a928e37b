"""Record of failed logins, one line each."""
import datetime
from pathlib import Path

RECORD = Path("/var/log/shop/logins.log")


def note(user: str, address: str) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with RECORD.open("a") as record:
        record.write(f"{now} failed login of {user} from {address}\n")


def count() -> int:
    with RECORD.open() as record:
        return sum(1 for _ in record)
