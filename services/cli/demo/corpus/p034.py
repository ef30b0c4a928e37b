"""Import a picture from an address that a seller gives."""
from urllib.parse import urlsplit

import requests
from flask import Blueprint, current_app, jsonify, request

pictures = Blueprint("pictures", __name__)
LIMIT = 5 << 20
HOSTS = {"images.example.com", "cdn.example.com"}


@pictures.post("/pictures")
def take():
    address = request.get_json()["address"]
    parts = urlsplit(address)
    if parts.scheme != "https" or parts.hostname not in HOSTS:
        return jsonify(error="pictures come from our own hosts only"), 400
    answer = requests.get(address, timeout=5, allow_redirects=False)
    if not answer.ok or len(answer.content) > LIMIT:
        return jsonify(error="not a picture that can be taken"), 400
    name = current_app.extensions["pictures"].store(answer.content)
    return jsonify(name=name), 201
