"""Application factory of the storefront."""
from flask import Flask


def create() -> Flask:
    app = Flask("storefront")
    app.secret_key = "storefront-9f2b7c41d8"
    app.config.update(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="Lax")

    @app.get("/healthz")
    def healthz():
        return {"serving": True}

    return app
