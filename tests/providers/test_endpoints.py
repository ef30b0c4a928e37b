"""Endpoints: only public addresses over https, and the address that was checked is the one that is called."""

import pytest

from services.kit.settings import SettingsInvalid
from services.providers import endpoints
from services.providers.connections import Connections, ProviderUnreachable
from services.providers.endpoints import EndpointRefused
from services.providers.secrets import Secret
from services.providers.settings import ProvidersSettings

PUBLIC = "1.1.1.1"


@pytest.mark.parametrize(
    "text",
    [
        "http://api.openai.com",
        "ftp://api.openai.com",
        "api.openai.com",
        "https://",
        "https://user@api.openai.com",
        "https://user:password@api.openai.com",
        "https://@api.openai.com",
        "https://api.openai.com?key=1",
        "https://api.openai.com?",
        "https://api.openai.com#part",
        "https://api.openai.com:99999",
        "https://api.openai.com/a/../b",
        "https://api.openai.com\\@evil.example",
        "https://api%2eopenai.com",
        "https://bücher.example",
        "https://-bad.example",
        "https://127.0.0.1",
        "https://[::1]",
        "https://10.1.2.3",
        "https://172.16.0.1",
        "https://192.168.1.1",
        "https://169.254.169.254",
        "https://100.64.0.1",
        "https://224.0.0.1",
        "https://240.0.0.1",
        "https://0.0.0.0",
        "https://255.255.255.255",
        "https://[::ffff:8.8.8.8]",
        "https://[64:ff9b::7f00:1]",
        "https://[2002:7f00:1::]",
        "https://[fe80::1]",
        "https://[fd00::1]",
        "https://[ff02::1]",
        "https://[::]",
        "https://0",
        "https://2130706433",
        "https://127.1",
        "https://0177.0.0.1",
        "https://0x7f.1",
        "https://0x7f000001",
        "https://metadata.0x1",
        "https://api.openai.com.",
        "https://api.openai.com:0",
        "https://[v1.fe80]",
        "https://[fe80::1%25eth0]",
        "https://[fec0::1]",
        "https://[3fff::1]",
        "https://192.88.99.1",
        "https://192.0.0.9",
        "https://api.openai.com\r\nx-evil: 1",
        "https://api.openai.com/\tv1",
    ],
)
def test_what_a_key_must_not_be_sent_to_is_refused(text: str) -> None:
    with pytest.raises(EndpointRefused):
        endpoints.parse(text, allow_loopback=False)


def test_a_public_https_endpoint_is_accepted() -> None:
    endpoint = endpoints.parse("https://API.openai.com/v1/", allow_loopback=False)
    assert (endpoint.host, endpoint.port, endpoint.path) == ("api.openai.com", 443, "/v1")


@pytest.mark.parametrize("text", ["https://3com.example", "https://1.example", "https://0x.example", "https://8.8.8.8"])
def test_a_number_in_front_is_no_address_in_an_old_form(text: str) -> None:
    assert endpoints.parse(text, allow_loopback=False).authority == text.removeprefix("https://")


@pytest.mark.parametrize("text", ["http://user@host:1/v1", "http://user:word@host", "http://host/?key=1", "ftp://host"])
def test_an_operators_own_address_names_no_user_either(text: str) -> None:
    with pytest.raises(EndpointRefused):
        endpoints.trust(text)


def test_loopback_is_allowed_by_number_only_and_only_where_the_operator_says_so() -> None:
    assert endpoints.parse("http://127.0.0.1:9", allow_loopback=True).authority == "127.0.0.1:9"
    for text in ("http://localhost:9", "http://127.0.0.2:9", "http://[::1]:9", "http://1.1.1.1"):
        with pytest.raises(EndpointRefused):
            endpoints.parse(text, allow_loopback=True)


def test_production_does_not_start_with_loopback_endpoints() -> None:
    values = dict.fromkeys(("service", "database_url", "vault_url"), "x")
    files = dict.fromkeys(("database_password_file", "vault_role_id_file", "vault_secret_id_file"), "/x")
    with pytest.raises(SettingsInvalid):
        ProvidersSettings.of(values | files | {"allow_loopback_endpoints": True})


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "100.64.0.1", "::ffff:10.0.0.1"])
async def test_a_name_that_leads_to_a_special_address_is_refused_though_others_are_public(address: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return [PUBLIC, address]

    endpoint = endpoints.parse("https://api.example.com", allow_loopback=True)
    with pytest.raises(EndpointRefused):
        await endpoints.pin(endpoint, allow_loopback=True, resolve=resolve)


async def test_dns_is_asked_once_and_its_first_answer_is_what_is_called() -> None:
    answers = [[PUBLIC], ["127.0.0.1"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0)

    endpoint = endpoints.parse("https://rebinding.example:8443/base", allow_loopback=False)
    pinned = await endpoints.pin(endpoint, allow_loopback=False, resolve=resolve)
    assert pinned.url("/v1/models") == f"https://{PUBLIC}:8443/base/v1/models"
    assert pinned.endpoint.authority == "rebinding.example:8443"
    assert answers == [["127.0.0.1"]]


async def test_a_name_that_nobody_knows_is_unreachable() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("no such host", host, port)

    connections = Connections(allow_loopback=False, resolve=resolve)
    provider = {
        "api_endpoint": "https://nowhere.example",
        "type": "openai",
        "model_name": "m",
        "timeout_seconds": 5,
    }
    with pytest.raises(ProviderUnreachable):
        await connections.prove(provider, Secret("sk-12345678"))  # type: ignore[arg-type]
    await connections.close()
