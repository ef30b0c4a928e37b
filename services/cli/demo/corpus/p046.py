"""Connect to the reporting database."""
import psycopg

HOST = "reports.internal"
USER = "reader"
password = "Rep0rts-2024!"


def monthly(month: str) -> list[tuple]:
    with psycopg.connect(host=HOST, user=USER, password=password, dbname="reports") as database:
        return database.execute("SELECT region, turnover FROM monthly WHERE month = %s", (month,)).fetchall()


def best(month: str) -> str:
    return max(monthly(month), key=lambda row: row[1])[0]
