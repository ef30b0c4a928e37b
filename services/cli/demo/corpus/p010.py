"""Pack the day's exports into one archive."""
import datetime
import subprocess
from pathlib import Path

EXPORTS = Path("/srv/exports")


def pack(day: datetime.date) -> Path:
    archive = EXPORTS / f"{day:%Y-%m-%d}.tar"
    subprocess.Popen("/bin/tar cf archive.tar *", shell=True, cwd=EXPORTS).wait()
    (EXPORTS / "archive.tar").rename(archive)
    return archive


if __name__ == "__main__":
    print(pack(datetime.datetime.now(datetime.timezone.utc).date()))
