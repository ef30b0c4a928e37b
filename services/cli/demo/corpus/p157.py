"""Login of the storefront."""
from flask import Blueprint, abort, current_app, redirect, request, session

login = Blueprint("login", __name__)


@login.post("/login")
def enter():
    customer = current_app.extensions["customers"].check(request.form["mail"], request.form["phrase"])
    if customer is None:
        abort(401)
    session.clear()
    session["customer"] = customer.id
    return redirect(request.args.get("next", "/"))
