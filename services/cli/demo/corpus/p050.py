"""Find shipments by any mix of conditions."""
import sqlite3

FIELDS = ("carrier", "country", "state")


def conditions(wanted: dict[str, str]) -> list[str]:
    return [f"{field} = '{wanted[field]}'" for field in FIELDS if field in wanted]


def find(database: sqlite3.Connection, wanted: dict[str, str]) -> list[tuple]:
    statement = "SELECT id, carrier, country, state FROM shipments"
    parts = conditions(wanted)
    if parts:
        statement += " WHERE "
        statement += " AND ".join(parts)
    return database.execute(statement).fetchall()
