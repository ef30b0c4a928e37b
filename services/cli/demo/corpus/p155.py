"""Reviews shown on a product page of the storefront."""
from flask import Blueprint, current_app, render_template
from markupsafe import Markup

reviews = Blueprint("reviews", __name__)


def stars(count: int) -> Markup:
    return Markup("<b>%s</b>") % ("*" * count)


@reviews.get("/products/<int:product>/reviews")
def page(product):
    shown = []
    for review in current_app.extensions["reviews"].of(product):
        body = Markup(f"<blockquote>{review.text}</blockquote>")
        shown.append((stars(review.stars), body))
    return render_template("reviews.html", reviews=shown)
