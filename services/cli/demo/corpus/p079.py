"""Report how much room each customer's folder takes."""
import csv
import os
import sys


def size(folder: str) -> int:
    with os.popen("du -sb " + folder) as answer:
        return int(answer.read().split()[0])


def report(listing: str) -> dict[str, int]:
    with open(listing, newline="") as rows:
        return {row["customer"]: size(row["folder"]) for row in csv.DictReader(rows)}


if __name__ == "__main__":
    for customer, octets in report(sys.argv[1]).items():
        print(f"{customer}\t{octets}")
