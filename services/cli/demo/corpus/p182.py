"""Gift cards of the storefront."""
import random
import string

from flask import Blueprint, current_app, jsonify

cards = Blueprint("cards", __name__)
LETTERS = string.ascii_uppercase + string.digits


@cards.post("/cards/<int:cents>")
def issue(cents):
    if not 500 <= cents <= 20_000:
        return jsonify(error="a card holds between 5 and 200"), 400
    code = "".join(random.choice(LETTERS) for _ in range(16))
    current_app.extensions["cards"].store(code, cents)
    return jsonify(code=code), 201
