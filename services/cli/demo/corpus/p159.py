"""Application factory of the storefront."""
import os

from flask import Flask


def create() -> Flask:
    app = Flask("storefront")
    app.secret_key = os.environ["STOREFRONT_SECRET"]
    app.config.update(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="Lax")

    @app.get("/healthz")
    def healthz():
        return {"serving": True}

    return app
