"""Delete the stale sessions of one tenant."""
import argparse
import sqlite3
import time


def clean(path: str, tenant: str, days: int) -> int:
    before = int(time.time()) - days * 86_400
    with sqlite3.connect(path) as database:
        statement = "DELETE FROM sessions WHERE tenant = ? AND seen < ?"
        return database.execute(statement, (tenant, before)).rowcount


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("tenant")
    parser.add_argument("--days", type=int, default=30)
    given = parser.parse_args()
    print(clean(given.database, given.tenant, given.days))
