"""Price calculator of the storefront: quantity, price, discount."""
from decimal import Decimal, InvalidOperation

from flask import Blueprint, jsonify, request

prices = Blueprint("prices", __name__)


@prices.get("/total")
def total():
    quantity = int(request.args["quantity"])
    try:
        discount = Decimal(request.args.get("discount", "0"))
    except InvalidOperation:
        return jsonify(error="discount must be a number"), 400
    price = int(request.args["price_cents"])
    return jsonify(total_cents=int(quantity * price * (100 - discount) / 100))
