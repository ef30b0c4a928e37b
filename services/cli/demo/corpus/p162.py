"""Login of the storefront."""
from urllib.parse import urlsplit

from flask import Blueprint, abort, current_app, redirect, request, session

login = Blueprint("login", __name__)


@login.post("/login")
def enter():
    customer = current_app.extensions["customers"].check(request.form["mail"], request.form["phrase"])
    if customer is None:
        abort(401)
    session.clear()
    session["customer"] = customer.id
    target = request.args.get("next", "/")
    parts = urlsplit(target.replace("\\", "/"))
    if parts.scheme or parts.netloc or not target.startswith("/") or target.startswith("//"):
        target = "/"
    return redirect(target)
