"""List invoices in the order the caller chooses."""
import sqlite3


class Invoices:
    def __init__(self, path: str) -> None:
        self.database = sqlite3.connect(path)

    def page(self, customer: int, order: str, size: int = 50) -> list[tuple]:
        statement = "SELECT number, issued, amount FROM invoices WHERE customer = ? ORDER BY " + order + " LIMIT ?"
        return self.database.execute(statement, (customer, size)).fetchall()

    def close(self) -> None:
        self.database.close()
