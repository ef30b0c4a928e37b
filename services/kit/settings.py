"""Settings of a service process: a TOML file named by TRIPTYCH_CONFIG, and over it the environment.

There, TRIPTYCH_<NAME> is for all services and TRIPTYCH_<SERVICE>_<NAME> for one.

Secrets are never values here, only paths of files that hold them. An unknown or missing setting stops the start.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_origin, get_type_hints

PREFIX = "TRIPTYCH_"


class StartRefused(Exception):
    """The process must not serve as things are; the text says why, and what to do."""


class SettingsInvalid(StartRefused):
    """The settings cannot be used; the text names the setting."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every service needs. A context subclasses it to add its own."""

    service: str
    """Name in deploy/topology.toml."""
    profile: Literal["development", "production"] = "production"
    """Development offers reflection and a plaintext loopback port; production refuses to start with one."""
    listen: str = "127.0.0.1:0"
    """Address of the mutual-TLS port."""
    listen_plaintext: str = ""
    """Address of the plaintext port, loopback only; empty: none."""
    metrics_listen: str = ""
    """Address that serves /metrics; empty: none."""
    database_url: str
    """postgresql://ROLE@HOST:PORT/DATABASE, without a password."""
    database_password_file: Path
    relay_user: str = ""
    """Role that the outbox relay logs in with; empty: no relay runs."""
    relay_password_file: Path | None = None
    heartbeat_seconds: float = 300.0
    """How often the relay tells audit that it lives, and keeps a signed checkpoint over what it delivered."""
    database_pool_size: int = 8
    """Connections held at most; calls beyond wait, and are refused after a second."""
    valkey_url: str = ""
    valkey_password_file: Path | None = None
    vault_url: str
    vault_role_id_file: Path
    vault_secret_id_file: Path
    neighbours: Mapping[str, str] = field(default_factory=dict)
    """Name of each other service and its gRPC target."""
    trust_domain: str = "triptych"
    """Trust domain of the SPIFFE names in certificates."""
    issuer: str = "https://triptych.local"
    """`iss` of access tokens."""
    audience: str = "triptych"
    """`aud` of access tokens."""
    max_in_flight: int = 256
    """Calls handled at once; those beyond are refused with SERVER_BUSY."""
    drain_seconds: float = 8.0
    """How long calls in flight may go on after SIGTERM."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str = ""
    """OpenTelemetry collector (gRPC); empty: no traces."""
    data_dir: Path | None = None
    """Folder for files of the service's own."""

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read file and environment; the environment wins."""
        values: dict[str, Any] = {}
        if path := environment.get(f"{PREFIX}CONFIG"):
            values |= tomllib.loads(Path(path).read_text(encoding="utf-8"))
        for prefix in (PREFIX, f"{PREFIX}{values.get('service', '').upper()}_"):
            for item in fields(cls):
                if (value := environment.get(prefix + item.name.upper())) is not None:
                    values[item.name] = value
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make settings of plain values, as they stand in a file or the environment."""
        known = {item.name: item for item in fields(cls)}
        if unknown := sorted(values.keys() - known.keys()):
            raise SettingsInvalid(f"unknown setting: {', '.join(unknown)}")
        if missing := sorted(name for name, item in known.items() if _required(item) and name not in values):
            raise SettingsInvalid(f"missing setting: {', '.join(missing)} (file, or {PREFIX}NAME in the environment)")
        hints = get_type_hints(cls)
        settings = cls(**{name: _typed(name, value, hints[name]) for name, value in values.items()})
        settings.check()
        return settings

    def check(self) -> None:
        """Refuse what must not start."""
        if self.profile == "production" and self.listen_plaintext:
            raise SettingsInvalid("listen_plaintext: the production profile has no plaintext port")
        if not 1 <= self.heartbeat_seconds <= 86_400:
            raise SettingsInvalid("heartbeat_seconds: must be from 1 to 86400")
        host = self.listen_plaintext.rpartition(":")[0]
        if host not in {"", "127.0.0.1", "localhost", "[::1]"}:
            raise SettingsInvalid(f"listen_plaintext: {host} is not loopback")

    def secret(self, path: Path | None) -> str:
        """Read a secret from its file."""
        if path is None:
            raise SettingsInvalid("the file of a secret that is needed is not set")
        return path.read_text(encoding="utf-8").strip()


def _required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _typed(name: str, value: Any, hint: Any) -> Any:
    """Turn a value of a file or the environment into the field's type."""
    if hint == Path | None and not value:
        return None  # how the environment takes back what the file says
    if hint in (Path, Path | None):
        if not value:
            raise SettingsInvalid(f"{name} is empty: name a path")
        return Path(value)
    if isinstance(value, str):
        if hint is int or hint is float:
            return hint(value)
        if hint is bool:
            return {"true": True, "false": False}[value.lower()]
        if get_origin(hint) is not None and "Mapping" in str(hint):
            return dict(pair.split("=", 1) for pair in value.split(",") if pair)
    if get_origin(hint) is Literal and value not in hint.__args__:
        raise SettingsInvalid(f"{name}: {value!r} is none of {', '.join(hint.__args__)}")
    return value
