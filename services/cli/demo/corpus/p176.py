"""Reachability probe of the storefront's status page."""
import subprocess

from flask import Blueprint, jsonify, request

status = Blueprint("status", __name__)


@status.get("/reachable")
def reachable():
    host = request.args["host"]
    done = subprocess.run(f"/bin/ping -c 1 {host}", shell=True, capture_output=True, timeout=5)
    return jsonify(host=host, reachable=done.returncode == 0)
