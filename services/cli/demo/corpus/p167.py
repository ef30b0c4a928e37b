"""Order details of the storefront."""
import psycopg
from flask import Blueprint, abort, current_app, jsonify, session

orders = Blueprint("orders", __name__)


@orders.get("/orders/<number>")
def order(number):
    if "customer" not in session:
        abort(401)
    with psycopg.connect(current_app.config["DSN"]) as database:
        row = database.execute(
            "SELECT number, total FROM orders WHERE number = %s AND customer = %s", (number, session["customer"])
        ).fetchone()
    if row is None:
        abort(404)
    return jsonify(number=row[0], total=str(row[1]))
