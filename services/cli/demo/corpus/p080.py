"""Export the order book for a spreadsheet program."""
import csv
import tempfile


def export(orders: list[dict]) -> str:
    name = tempfile.mktemp(suffix=".csv")
    with open(name, "w", newline="") as target:
        writer = csv.DictWriter(target, ["number", "customer", "total"])
        writer.writeheader()
        writer.writerows(orders)
    return name


def totals(orders: list[dict]) -> float:
    return sum(order["total"] for order in orders)
