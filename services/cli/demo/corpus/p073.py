"""Baskets that live in a cookie."""
import base64
import json

from flask import Blueprint, jsonify, request

basket = Blueprint("basket", __name__)


def opened() -> dict[str, int]:
    cookie = request.cookies.get("basket")
    if cookie is None:
        return {}
    found = json.loads(base64.urlsafe_b64decode(cookie))
    return {str(product): int(quantity) for product, quantity in found.items()}


@basket.get("/basket")
def show():
    return jsonify(opened())
