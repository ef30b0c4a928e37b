"""Entry point of the storefront."""
import os

from flask import Flask, jsonify

app = Flask("storefront")


@app.get("/version")
def version():
    return jsonify(version=os.environ.get("STOREFRONT_VERSION", "unknown"))


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8000")))
