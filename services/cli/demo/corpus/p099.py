"""Mail the weekly figures."""
import os
import smtplib
import ssl
from email.message import EmailMessage


def send(message: EmailMessage) -> None:
    host = os.environ["MAIL_HOST"]
    with smtplib.SMTP(host, 587, timeout=30) as line:
        line.starttls(context=ssl.create_default_context())
        line.login(os.environ["MAIL_USER"], os.environ["MAIL_PHRASE"])
        line.send_message(message)


def figures(week: int, rows: list[tuple[str, int]]) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = f"Figures of week {week}"
    message["From"], message["To"] = "figures@example.com", "board@example.com"
    message.set_content("\n".join(f"{name}: {value}" for name, value in rows))
    return message
