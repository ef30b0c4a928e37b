"""Download of invoices from the storefront."""
from pathlib import Path

from flask import Blueprint, abort, request, send_from_directory, session

invoices = Blueprint("invoices", __name__)
FOLDER = Path("/srv/invoices")


@invoices.get("/invoices/download")
def download():
    if "customer" not in session:
        abort(401)
    own = FOLDER / str(session["customer"])
    return send_from_directory(own, request.args["file"], as_attachment=True)
