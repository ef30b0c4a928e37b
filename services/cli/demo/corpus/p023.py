"""List invoices in the order the caller chooses."""
import sqlite3

COLUMNS = {"number": "number", "date": "issued", "amount": "amount"}


class Invoices:
    def __init__(self, path: str) -> None:
        self.database = sqlite3.connect(path)

    def page(self, customer: int, order: str, size: int = 50) -> list[tuple]:
        column = COLUMNS.get(order)
        if column is None:
            raise ValueError(f"order must be one of {sorted(COLUMNS)}")
        statement = "SELECT number, issued, amount FROM invoices WHERE customer = ? ORDER BY " + column + " LIMIT ?"
        return self.database.execute(statement, (customer, size)).fetchall()

    def close(self) -> None:
        self.database.close()
