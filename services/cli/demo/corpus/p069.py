"""Make a thumbnail of every picture in a folder."""
import subprocess
import sys
from pathlib import Path

SIZE = "320x320"


def shrink(picture: Path, folder: Path) -> None:
    target = folder / f"{picture.stem}.small.png"
    subprocess.run(["/usr/bin/convert", str(picture.resolve()), "-resize", SIZE, str(target.resolve())], check=True)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(exist_ok=True)
    for picture in sorted(source.glob("*.png")):
        shrink(picture, target)


main()
