"""Render the monthly statement as an HTML mail."""
from email.message import EmailMessage

import jinja2

BODY = jinja2.Environment(autoescape=True).from_string(
    "<h1>Statement for {{ customer }}</h1><p>You owe {{ amount }}.</p>"
)


def statement(customer: str, address: str, amount: str) -> EmailMessage:
    message = EmailMessage()
    message["To"] = address
    message["Subject"] = "Your statement"
    message.set_content(f"You owe {amount}.")
    message.add_alternative(BODY.render(customer=customer, amount=amount), subtype="html")
    return message
