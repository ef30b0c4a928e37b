"""Sort a large file in pieces."""
import heapq
import sys
from pathlib import Path

PIECE = 100_000


def sort(source: Path) -> None:
    folder = Path("/tmp/sort-pieces")
    folder.mkdir(exist_ok=True)
    lines, pieces = source.read_text().splitlines(keepends=True), []
    for start in range(0, len(lines), PIECE):
        piece = folder / f"{start}.part"
        piece.write_text("".join(sorted(lines[start : start + PIECE])))
        pieces.append(piece.open())
    sys.stdout.writelines(heapq.merge(*pieces))


sort(Path(sys.argv[1]))
