"""Greeting page of the storefront."""
from flask import Blueprint, request
from markupsafe import escape

greeting = Blueprint("greeting", __name__)

PAGE = "<!doctype html><title>Welcome</title><main>{}</main>"


@greeting.get("/welcome")
def welcome():
    visitor = request.args.get("name", "visitor")
    basket = int(request.args.get("basket", "0"))
    text = f"<h1>Good day, {escape(visitor)}</h1><p>{basket} things in your basket.</p>"
    return PAGE.format(text)
