"""Make a thumbnail of every picture in a folder."""
import os
import sys
from pathlib import Path

SIZE = "320x320"


def shrink(picture: Path, folder: Path) -> None:
    target = folder / f"{picture.stem}.small.png"
    status = os.system(f"convert '{picture}' -resize {SIZE} '{target}'")
    if status != 0:
        raise SystemExit(f"could not shrink {picture}")


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(exist_ok=True)
    for picture in sorted(source.glob("*.png")):
        shrink(picture, target)


main()
