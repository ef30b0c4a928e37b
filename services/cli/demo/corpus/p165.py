"""Parcel tracking of the storefront."""
import requests
from flask import Blueprint, jsonify

parcels = Blueprint("parcels", __name__)
SERVICE = "https://parcels.example.com/v1/parcels/"


@parcels.get("/parcels/<int:number>")
def where(number):
    answer = requests.get(f"{SERVICE}{number}")
    if answer.status_code == 404:
        return jsonify(error="no such parcel"), 404
    answer.raise_for_status()
    found = answer.json()
    return jsonify(number=number, place=found["place"], at=found["at"])
