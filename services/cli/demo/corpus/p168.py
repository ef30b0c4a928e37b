"""Download of invoices from the storefront."""
from pathlib import Path

from flask import Blueprint, abort, request, send_file, session

invoices = Blueprint("invoices", __name__)
FOLDER = Path("/srv/invoices")


@invoices.get("/invoices/download")
def download():
    if "customer" not in session:
        abort(401)
    path = FOLDER / str(session["customer"]) / request.args["file"]
    if not path.exists():
        abort(404)
    return send_file(path, as_attachment=True)
