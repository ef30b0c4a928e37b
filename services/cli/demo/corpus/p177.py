"""Search of the storefront."""
import sqlite3

from flask import Blueprint, current_app, jsonify, request

search = Blueprint("search", __name__)


@search.get("/products")
def products():
    word = request.args.get("q", "")
    with sqlite3.connect(current_app.config["CATALOGUE"]) as database:
        rows = database.execute(f"SELECT id, title, price FROM products WHERE title LIKE '%{word}%'").fetchall()
    return jsonify([{"id": row[0], "title": row[1], "price": row[2]} for row in rows])
