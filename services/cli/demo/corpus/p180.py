"""Pages of the storefront that are rendered outside a request."""
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

TEMPLATES = Path(__file__).parent / "templates"

pages = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, autoescape=select_autoescape())


def receipt(order) -> str:
    lines = [(line.title, line.quantity, f"{line.price:.2f}") for line in order.lines]
    return pages.get_template("receipt.html").render(customer=order.customer, lines=lines)


def refusal(order, reason: str) -> str:
    return pages.get_template("refusal.html").render(customer=order.customer, reason=reason)
