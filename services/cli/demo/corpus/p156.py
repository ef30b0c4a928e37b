"""Unsubscription from the storefront's newsletter."""
from flask import Blueprint, current_app, request
from sqlalchemy import create_engine, text

newsletter = Blueprint("newsletter", __name__)


@newsletter.post("/unsubscribe")
def unsubscribe():
    address = request.form["address"]
    engine = create_engine(current_app.config["DATABASE"])
    with engine.begin() as connection:
        done = connection.execute(text(f"UPDATE readers SET active = false WHERE address = '{address}'"))
    return ("", 204) if done.rowcount else ("no such reader", 404)
