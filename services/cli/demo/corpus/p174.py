"""Sale of goods with an age limit in the storefront."""
import datetime

from flask import Blueprint, current_app, jsonify, session

limited = Blueprint("limited", __name__)


@limited.post("/limited/<int:product>")
def buy(product):
    allowed = True
    try:
        born = datetime.date.fromisoformat(session["born"])
        allowed = (datetime.date.today() - born).days >= 18 * 365.25
    except Exception:
        pass
    if not allowed:
        return jsonify(error="not sold to people under 18"), 403
    return jsonify(order=current_app.extensions["orders"].place(product))
