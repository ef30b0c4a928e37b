"""Failures of the booking interface, as its callers see them."""
import logging
import traceback

from flask import Flask, jsonify

log = logging.getLogger("bookings")


def attach(app: Flask) -> None:
    @app.errorhandler(Exception)
    def failed(error):
        log.error("a request failed")
        return jsonify(error=str(error), detail=traceback.format_exc()), 500

    @app.errorhandler(404)
    def absent(_):
        return jsonify(error="no such booking"), 404
