"""Sale of goods with an age limit in the storefront."""
import datetime

from flask import Blueprint, abort, current_app, jsonify, session

limited = Blueprint("limited", __name__)


@limited.post("/limited/<int:product>")
def buy(product):
    try:
        born = datetime.date.fromisoformat(session["born"])
    except (KeyError, ValueError):
        abort(403)
    if (datetime.date.today() - born).days < 18 * 365.25:
        return jsonify(error="not sold to people under 18"), 403
    return jsonify(order=current_app.extensions["orders"].place(product))
