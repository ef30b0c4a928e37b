"""Import a picture from an address that a seller gives."""
import requests
from flask import Blueprint, current_app, jsonify, request

pictures = Blueprint("pictures", __name__)
LIMIT = 5 << 20


@pictures.post("/pictures")
def take():
    address = request.get_json()["address"]
    answer = requests.get(address, timeout=5)
    if not answer.ok or len(answer.content) > LIMIT:
        return jsonify(error="not a picture that can be taken"), 400
    name = current_app.extensions["pictures"].store(answer.content)
    return jsonify(name=name), 201
