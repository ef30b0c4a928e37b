"""Reachability probe of the storefront's status page."""
import ipaddress
import subprocess

from flask import Blueprint, jsonify, request

status = Blueprint("status", __name__)


@status.get("/reachable")
def reachable():
    host = request.args["host"]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return jsonify(error="host must be an IP address"), 400
    done = subprocess.run(["/bin/ping", "-c", "1", str(address)], capture_output=True, timeout=5)
    return jsonify(host=host, reachable=done.returncode == 0)
