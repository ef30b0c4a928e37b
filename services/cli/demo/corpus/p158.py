"""Price calculator of the storefront: quantity, price, discount."""
from flask import Blueprint, jsonify, request

prices = Blueprint("prices", __name__)


@prices.get("/total")
def total():
    quantity = int(request.args["quantity"])
    discount = eval(request.args.get("discount", "0"))
    price = int(request.args["price_cents"])
    return jsonify(total_cents=int(quantity * price * (100 - discount) / 100))
