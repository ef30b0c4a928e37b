"""Failures of the booking interface, as its callers see them."""
import logging
import uuid

from flask import Flask, jsonify

log = logging.getLogger("bookings")


def attach(app: Flask) -> None:
    @app.errorhandler(Exception)
    def failed(error):
        reference = uuid.uuid4().hex
        log.error("request %s failed", reference, exc_info=error)
        return jsonify(error="internal error", reference=reference), 500

    @app.errorhandler(404)
    def absent(_):
        return jsonify(error="no such booking"), 404
