"""Export the order book for a spreadsheet program."""
import csv
import os
import tempfile


def export(orders: list[dict]) -> str:
    handle, name = tempfile.mkstemp(suffix=".csv")
    with os.fdopen(handle, "w", newline="") as target:
        writer = csv.DictWriter(target, ["number", "customer", "total"])
        writer.writeheader()
        writer.writerows(orders)
    return name


def totals(orders: list[dict]) -> float:
    return sum(order["total"] for order in orders)
