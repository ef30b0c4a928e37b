"""Baskets that live in a cookie."""
import base64
import pickle

from flask import Blueprint, jsonify, request

basket = Blueprint("basket", __name__)


def opened() -> dict[str, int]:
    cookie = request.cookies.get("basket")
    if cookie is None:
        return {}
    return pickle.loads(base64.urlsafe_b64decode(cookie))


@basket.get("/basket")
def show():
    return jsonify(opened())
