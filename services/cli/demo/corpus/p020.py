"""Report how much room each customer's folder takes."""
import csv
import sys
from pathlib import Path


def size(folder: str) -> int:
    return sum(entry.stat().st_size for entry in Path(folder).rglob("*") if entry.is_file())


def report(listing: str) -> dict[str, int]:
    with open(listing, newline="") as rows:
        return {row["customer"]: size(row["folder"]) for row in csv.DictReader(rows)}


if __name__ == "__main__":
    for customer, octets in report(sys.argv[1]).items():
        print(f"{customer}\t{octets}")
