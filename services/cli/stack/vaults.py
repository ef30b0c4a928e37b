"""What is provisioned in OpenBao: transit keys, the certificate authority, AppRoles and their policies.

Written again at each start: every call says how things shall be, so a second time changes nothing. Keys and
the root certificate are only ever created, never replaced.
"""

from pathlib import Path
from typing import Any, Final

import hvac
from hvac.exceptions import InvalidPath

from services.cli.stack.openbao import api
from services.cli.stack.topology import Service, Topology, TransitKey

# Identities beside the services, see their policies.
EXTRA: Final = ("providers-rewrapper", "providers-operator")


def identities(topology: Topology) -> tuple[str, ...]:
    """Return every AppRole; its policy file has the same name."""
    return (*(service.name for service in topology.services), *EXTRA)


def provision(client: hvac.Client, topology: Topology, policies: Path) -> None:
    """Make OpenBao as it should be; the client holds a root token, or one that may do all this."""
    _mount(client)
    for service in topology.services:
        for key in service.transit:
            _create_key(client, key)
        client.write_data(f"pki/roles/{service.name}", data=_certificate_role(service))
    for name in identities(topology):
        client.sys.create_or_update_policy(name, (policies / f"{name}.hcl").read_text(encoding="utf-8"))
        client.write_data(f"auth/approle/role/{name}", data=_approle(name))


def role_id(client: hvac.Client, name: str) -> str:
    """Read the public half of an AppRole."""
    answer: dict[str, Any] = client.auth.approle.read_role_id(name)
    return str(answer["data"]["role_id"])


def create_secret_id(client: hvac.Client, name: str) -> str:
    """Create a secret half of an AppRole."""
    answer: dict[str, Any] = client.auth.approle.generate_secret_id(name)
    return str(answer["data"]["secret_id"])


def knows_secret_id(client: hvac.Client, name: str, secret_id: str) -> bool:
    """Tell whether a secret half still counts."""
    answer = client.write_data(f"auth/approle/role/{name}/secret-id/lookup", data={"secret_id": secret_id})
    return isinstance(answer, dict) and bool(answer.get("data"))


def _mount(client: hvac.Client) -> None:
    engines = api(client).sys.list_mounted_secrets_engines()["data"]
    if "transit/" not in engines:
        client.sys.enable_secrets_engine("transit")
    # With upsert, a mistyped key name in `encrypt` would create that key instead of failing.
    client.write_data("transit/config/keys", data={"disable_upsert": True})
    if "pki/" not in engines:
        client.sys.enable_secrets_engine("pki", config={"max_lease_ttl": "87600h"})
    if not _has_root(client):
        root = {"common_name": "Triptych root CA", "key_type": "ec", "key_bits": 256, "ttl": "87600h"}
        client.write_data("pki/root/generate/internal", data=root)
    if "approle/" not in api(client).sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("approle")


def _has_root(client: hvac.Client) -> bool:
    try:
        return bool(client.list("pki/issuers"))
    except InvalidPath:
        return False


def _create_key(client: hvac.Client, key: TransitKey) -> None:
    try:
        api(client).secrets.transit.read_key(key.name)
    except InvalidPath:
        api(client).secrets.transit.create_key(
            key.name, key_type=key.type, derived=key.derived, exportable=False, allow_plaintext_backup=False
        )


def _certificate_role(service: Service) -> dict[str, Any]:
    return {
        "allowed_uri_sans": [f"spiffe://triptych/{service.name}"],
        "allowed_domains": [service.name, "localhost"],
        "allow_bare_domains": True,
        "allow_localhost": False,
        "allow_subdomains": False,
        "allow_ip_sans": True,
        "allowed_ip_sans_cidr": ["127.0.0.1/32"],
        "require_cn": False,
        "server_flag": True,
        "client_flag": True,
        "key_type": "ec",
        "key_bits": 256,
        "key_usage": ["DigitalSignature"],
        "ttl": "24h",
        "max_ttl": "72h",
        # They live for a day and are renewed before; a list of them would only grow.
        "no_store": True,
    }


def _approle(policy: str) -> dict[str, Any]:
    return {
        "token_policies": [policy],
        "token_no_default_policy": True,
        # A batch token costs no storage and cannot be renewed: a service logs in again before the hour is
        # over.
        "token_type": "batch",
        "token_ttl": "1h",
        "secret_id_ttl": "0",
        "secret_id_num_uses": 0,
    }
