"""OpenBao: each identity can do its own verbs on its own keys, and is refused everywhere else."""

import base64
from typing import Any

import hvac
import pytest
from cryptography import x509
from hvac.exceptions import Forbidden, InvalidRequest

from services.cli.stack import topology
from services.cli.stack.backends import Backends
from services.cli.stack.openbao import connect

SERVICES = [service.name for service in topology.read().services]
TEXT = base64.b64encode(b"text").decode()
CONTEXT = base64.b64encode(b"tenant and key").decode()


def login(backends: Backends, name: str) -> hvac.Client:
    client = connect(backends.openbao.url)
    answer = client.auth.approle.login(
        role_id=backends.home.read("secrets", f"approle-{name}.role"),
        secret_id=backends.home.read("secrets", f"approle-{name}.secret"),
    )
    assert answer["auth"]["token_policies"] == [name]
    return client


def write(client: hvac.Client, path: str, **data: Any) -> dict[str, Any]:
    answer = client.write_data(path, data=data)
    assert isinstance(answer, dict)
    return dict(answer["data"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_a_certificate_with_its_name(backends: Backends, name: str) -> None:
    answer = write(
        login(backends, name),
        f"pki/issue/{name}",
        common_name=name,
        alt_names="localhost",
        ip_sans="127.0.0.1",
        uri_sans=f"spiffe://triptych/{name}",
    )
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://triptych/{name}"]
    assert sorted(names.get_values_for_type(x509.DNSName)) == sorted([name, "localhost"])
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert 24 * 3600 <= lifetime.total_seconds() < 24 * 3600 + 120
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(answer["issuing_ca"].encode()))


@pytest.mark.parametrize(
    "names",
    [
        {"uri_sans": "spiffe://triptych/audit"},
        {"uri_sans": "spiffe://triptych/auth/more"},
        {"common_name": "audit"},
        {"common_name": "example.org"},
        {"ip_sans": "10.0.0.1"},
    ],
    ids=str,
)
def test_a_service_gets_no_certificate_with_another_name(backends: Backends, names: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        write(login(backends, "auth"), "pki/issue/auth", **names)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_refused_everything_of_the_others(backends: Backends, name: str) -> None:
    client = login(backends, name)
    paths = [f"pki/issue/{other}" for other in SERVICES if other != name]
    for service in topology.read().services:
        if service.name != name:
            verbs = ("encrypt", "decrypt", "hmac", "sign", "rewrap", "datakey/plaintext")
            paths += [f"transit/{verb}/{key.name}" for key in service.transit for verb in verbs]
    for path in paths:
        with pytest.raises(Forbidden):
            write(client, path, plaintext=TEXT)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_not_administrate(backends: Backends, name: str) -> None:
    client = login(backends, name)
    for path in (
        f"transit/keys/{name}-paging/rotate",
        f"pki/roles/{name}",
        f"auth/approle/role/{name}",
        "sys/seal",
    ):
        with pytest.raises(Forbidden):
            write(client, path, policies="root")
    with pytest.raises(Forbidden):
        client.list("transit/keys")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_seals_its_page_tokens(backends: Backends, name: str) -> None:
    client = login(backends, name)
    first = write(client, f"transit/hmac/{name}-paging", input=TEXT)["hmac"]
    assert first.startswith("vault:v1:")
    assert write(client, f"transit/hmac/{name}-paging", input=TEXT)["hmac"] == first


def test_auth_seals_and_opens(backends: Backends) -> None:
    client = login(backends, "auth")
    ciphertext = write(client, "transit/encrypt/auth-seal", plaintext=TEXT)["ciphertext"]
    assert write(client, "transit/decrypt/auth-seal", ciphertext=ciphertext)["plaintext"] == TEXT
    assert write(client, "transit/hmac/auth-seal", input=TEXT)["hmac"]


def test_providers_envelopes(backends: Backends) -> None:
    client = login(backends, "providers")
    key = write(client, "transit/datakey/plaintext/providers-kek", context=CONTEXT, bits=256)
    again = write(client, "transit/decrypt/providers-kek", ciphertext=key["ciphertext"], context=CONTEXT)
    assert again["plaintext"] == key["plaintext"]
    assert write(client, "transit/hmac/providers-fingerprint", input=TEXT)["hmac"]
    with pytest.raises(InvalidRequest):  # derived: without its context nothing opens
        write(client, "transit/decrypt/providers-kek", ciphertext=key["ciphertext"])


def test_providers_rewrap_is_another_identity(backends: Backends) -> None:
    app, rewrapper = login(backends, "providers"), login(backends, "providers-rewrapper")
    key = write(app, "transit/datakey/plaintext/providers-kek", context=CONTEXT)
    with pytest.raises(Forbidden):
        write(app, "transit/rewrap/providers-kek", ciphertext=key["ciphertext"], context=CONTEXT)
    assert write(rewrapper, "transit/rewrap/providers-kek", ciphertext=key["ciphertext"], context=CONTEXT)
    for verb in ("decrypt", "datakey/plaintext", "encrypt"):
        with pytest.raises(Forbidden):
            write(rewrapper, f"transit/{verb}/providers-kek", ciphertext=key["ciphertext"], context=CONTEXT)


def test_providers_operator_rotates_and_cannot_use(backends: Backends) -> None:
    operator, app = login(backends, "providers-operator"), login(backends, "providers")
    old = write(app, "transit/datakey/plaintext/providers-kek", context=CONTEXT)
    operator.write_data("transit/keys/providers-kek/rotate", data={})
    new = write(app, "transit/datakey/plaintext/providers-kek", context=CONTEXT)
    assert old["ciphertext"].split(":")[1] != new["ciphertext"].split(":")[1]
    with pytest.raises(Forbidden):
        write(operator, "transit/decrypt/providers-kek", ciphertext=new["ciphertext"], context=CONTEXT)
    with pytest.raises(Forbidden):
        write(operator, "transit/keys/providers-kek/config", exportable=True)
    for identity in (operator, app):
        with pytest.raises(Forbidden):
            write(identity, "transit/keys/providers-kek/rotate/../config", deletion_allowed=True)


def test_audit_signs_and_shows_the_public_key(backends: Backends) -> None:
    client = login(backends, "audit")
    assert write(client, "transit/sign/audit-checkpoint", input=TEXT)["signature"].startswith("vault:v1:")
    answer = client.read("transit/keys/audit-checkpoint")
    assert isinstance(answer, dict)
    assert answer["data"]["type"] == "ed25519"
    assert not answer["data"]["exportable"]
    with pytest.raises(Forbidden):
        client.read("transit/keys/audit-paging")


def test_a_mistyped_key_name_creates_no_key(backends: Backends) -> None:
    root = connect(backends.openbao.url, backends.openbao.token_file.read_text())
    with pytest.raises(InvalidRequest, match="encryption key not found"):
        write(root, "transit/encrypt/auth-seel", plaintext=TEXT)
