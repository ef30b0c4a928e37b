"""The settings that each service is started with, as a TOML file with paths of secrets and no secret."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.cli.stack.homes import Home
from services.cli.stack.topology import Service, Topology


def compose(
    home: Home, topology: Topology, service: Service, *, ports: Mapping[str, int], database: str
) -> dict[str, Any]:
    """Return one service's settings; the keys are a contract with services/kit/settings.py."""
    secrets = home.path / "secrets"
    settings: dict[str, Any] = {
        "service": service.name,
        "profile": "development",
        "listen": _address(ports[service.name]),
        "listen_plaintext": _address(ports[f"{service.name}.plaintext"]),
        "metrics_listen": _address(ports[f"{service.name}.metrics"]),
        "database_url": f"postgresql://{service.app}@{_address(ports['postgres'])}/{database}?sslmode=disable",
        "database_password_file": str(password_file(home, service.app)),
    }
    if "audit" in service.needs:  # audit itself has no outbox, so no relay
        settings |= {
            "relay_user": service.relay,
            "relay_password_file": str(password_file(home, service.relay)),
        }
    if service.name == "providers":  # a model server of one's own machine is ordinary in development
        settings["allow_loopback_endpoints"] = True
    if service.name == "audit":  # in production, on another disk than the database
        settings["witness_dir"] = str(home.folder("data", "witness"))
        settings["retention_user"] = service.relay  # audit relays nothing; this login of its schema retires months
        settings["retention_password_file"] = str(password_file(home, service.relay))
    if "valkey" in service.needs:
        settings["valkey_url"] = f"redis://{_address(ports['valkey'])}/0"
        settings["valkey_password_file"] = str(secrets / "valkey")
    settings |= {
        "vault_url": f"http://{_address(ports['openbao'])}",
        "vault_role_id_file": str(secrets / f"approle-{service.name}.role"),
        "vault_secret_id_file": str(secrets / f"approle-{service.name}.secret"),
        "data_dir": str(home.folder("data", service.name)),
    }
    others = [other.name for other in topology.services if other is not service]
    settings["neighbours"] = {name: f"dns:///{_address(ports[name])}" for name in others}
    return settings


def write(home: Home, settings: Mapping[str, Any]) -> Path:
    """Write one service's file."""
    return home.write("config", f"{settings['service']}.toml", toml(settings))


def toml(settings: Mapping[str, Any]) -> str:
    """Write strings and tables of strings as TOML; JSON's strings are TOML's basic strings."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if not isinstance(value, dict)]
    tables = [
        "\n".join([f"\n[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())])
        for name, table in settings.items()
        if isinstance(table, dict)
    ]
    return "\n".join([*plain, *tables]) + "\n"


def password_file(home: Home, role: str) -> Path:
    """Return the file of a PostgreSQL role's password; it exists from the first start on."""
    return home.secret(f"postgres-{role}")


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"
