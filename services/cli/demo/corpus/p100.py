"""Pack the day's exports into one archive."""
import datetime
import tarfile
from pathlib import Path

EXPORTS = Path("/srv/exports")


def pack(day: datetime.date) -> Path:
    archive = EXPORTS / f"{day:%Y-%m-%d}.tar"
    with tarfile.open(archive, "w") as packed:
        for export in sorted(EXPORTS.glob("*.csv")):
            packed.add(export, arcname=export.name)
    return archive


if __name__ == "__main__":
    print(pack(datetime.datetime.now(datetime.timezone.utc).date()))
